"""Plain Optuna over a search file: the reference with which other benchmarks compare sweeps.

Each process has one torch thread, reads the feature sets of its trials from the dataset's files,
takes the next configuration from a shared journal, and trains it with the same functions as a
sweep. It writes only the starts and values of trials, to the journal.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from whole_training import train

from mtl.optimisation.distributed import Workers
from sweeps.data.open_data import open_data
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose
from sweeps.planning.plan import divide, make_plan
from sweeps.planning.space import Space
from sweeps.run import open_study
from sweeps.search_file import SearchFile, load
from sweeps.storage.driver_lock import DriverLock
from sweeps.train import FeatureFiles

STUDY = "plain"
"""Name of the study in the journal."""


def draw(space: Path, folder: Path) -> list[FrozenTrial]:
    """Draw all trials of a sweep by a search file without training them, and return them.

    Args:
        space: The search file; its sampler must be ``random``, so that no draw depends on results.
        folder: Folder for the journal of the study that draws the trials.
    """
    file = load(space)
    study = open_study(folder, make_plan(file, open_data(file.data)), DriverLock(folder))
    while study.ask() is not None:
        pass
    drawn = [trial for trials in study.record.trials().values() for trial in trials]
    study.close()
    return drawn


def enqueue(journal: Path, configurations: Sequence[FrozenTrial]) -> None:
    """Create a journal with a study in which these trials' configurations wait to be trained."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=STUDY, storage=_storage(journal), direction="maximize")
    for trial in configurations:
        study.enqueue_trial(trial.params, user_attrs={"waited": True})


def ended(journal: Path, study: str = STUDY) -> list[FrozenTrial]:
    """Return the completed trials of a study in a journal, in the order in which they ended."""
    trials = optuna.load_study(study_name=study, storage=_storage(journal)).trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: str(trial.datetime_complete))


def read_data(file: SearchFile) -> SlotData:
    """Return features and labels for the trials of a search file.

    The files of a feature set are read when a trial uses the set for the first time.
    """
    dataset = open_data(file.data)
    listing = dataset.listing()
    parts = divide(listing, file.search.confirm, file.search.seed)
    return SlotData(FeatureFiles(dataset, listing), listing, parts)


def work(space: Path, journal: Path, rank: int = 0, size: int = 1) -> None:
    """Train all configurations that are enqueued in a journal, as one process of plain Optuna.

    Sets two user attributes of each trial: ``seconds``, the time of training and prediction, and
    ``epoch_seconds``, the time spent in epochs. With ``size`` above 1 the function exits its
    process at the end.

    Args:
        space: The search file.
        journal: The journal, shared by all processes.
        rank: Rank of this process among those that train one model together with DDP.
        size: Number of processes that train one model together.
    """
    torch.set_num_threads(1)
    if size > 1:
        rendezvous = f"file://{journal}.meeting"
        torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=size)
    workers = Workers.from_process_group()
    file = load(space)
    data, points = read_data(file), Space(file)
    study = None
    if rank == 0:
        study = optuna.load_study(study_name=STUDY, storage=_storage(journal))
    while True:
        trial = study.ask() if study else None
        # When the queue is empty, Optuna samples a new configuration, which is not trained.
        enqueued = trial is not None and "waited" in trial.user_attrs
        overrides = workers.broadcast_object(points.sample(trial) if trial and enqueued else None)
        if overrides is None:
            break
        started = time.perf_counter()
        config = compose(overrides)
        epochs, _ = train(config, data.for_trial(config), workers)
        if trial and study:
            trial.set_user_attr("seconds", time.perf_counter() - started)
            trial.set_user_attr("epoch_seconds", sum(epoch.seconds for epoch in epochs))
            study.tell(trial, epochs[-1].objective)
    if trial and study:
        study.tell(trial, state=TrialState.FAIL)
    if size > 1:
        # Gloo may abort a process that shuts down after its peer, so all exit without shutdown.
        torch.distributed.barrier()
        os._exit(0)


@contextmanager
def working(*calls: tuple[Any, ...]) -> Iterator[list[BaseProcess]]:
    """Run processes of plain Optuna in a context; wait for all of them on exit.

    Args:
        calls: For each process, the arguments of ``work``, which trains enqueued configurations:
            search file, journal, and optionally the DDP rank and number of DDP processes.

    Raises:
        AssertionError: A process ended with an error.
    """
    new = multiprocessing.get_context("spawn").Process
    processes = [new(target=work, args=arguments) for arguments in calls]
    try:
        for process in processes:
            process.start()
        yield list(processes)
        for process in processes:
            process.join()
            assert process.exitcode == 0, f"plain Optuna exited with code {process.exitcode}"
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()


def _storage(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal)))
