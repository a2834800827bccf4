"""Plain Optuna without Ray over a search file: the baseline with which benchmarks compare sweeps.

The configurations to train wait in an Optuna journal. Each process of plain Optuna has one torch
thread, takes the next configuration from the journal, reads the feature sets that it needs from the
dataset's files, and trains it with the same functions as a sweep. Nothing is written but the
trials' starts, ends, scores and durations, to the journal.
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
"""Name of plain Optuna's study in its journal."""


def draw(space: Path, folder: Path) -> list[FrozenTrial]:
    """Draw the configurations of all trials of a sweep, without training; return them as trials.

    Args:
        space: The search file; its sampler must be ``random``, so that no draw depends on results.
        folder: Folder for the journal of the Optuna study that draws the trials.
    """
    file = load(space)
    study = open_study(folder, make_plan(file, open_data(file.data)), DriverLock(folder))
    while study.ask() is not None:
        pass
    drawn = [trial for trials in study.record.trials().values() for trial in trials]
    study.close()
    return drawn


def enqueue(journal: Path, configurations: Sequence[FrozenTrial]) -> None:
    """Create an Optuna journal in which configurations wait to be trained.

    Args:
        journal: File of the new journal.
        configurations: Optuna trials of another study, with the drawn configurations.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=STUDY, storage=_storage(journal), direction="maximize")
    for trial in configurations:
        study.enqueue_trial(trial.params, user_attrs={"waited": True})


def ended(journal: Path, study: str = STUDY) -> list[FrozenTrial]:
    """Return the completed trials of an Optuna study in the order in which they ended.

    Args:
        journal: File of the study's journal.
        study: Name of the study in the journal.
    """
    trials = optuna.load_study(study_name=study, storage=_storage(journal)).trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: str(trial.datetime_complete))


def read_data(file: SearchFile) -> SlotData:
    """Return an object that gives features and labels to the trials of a search file.

    The files of a feature set are read when a trial uses the set for the first time.

    Args:
        file: The search file, which names the dataset and the division of the validation videos.
    """
    dataset = open_data(file.data)
    listing = dataset.listing()
    parts = divide(listing, file.search.confirm, file.search.seed)
    return SlotData(FeatureFiles(dataset, listing), listing, parts)


def work(space: Path, journal: Path, rank: int = 0, size: int = 1) -> None:
    """Train configurations from an Optuna journal one after another until none is waiting.

    The function is the body of one process of plain Optuna. It sets two user attributes of each
    trial: ``seconds``, the time of training and prediction, and ``epoch_seconds``, the time spent
    in training epochs. With ``size`` above 1 the function exits its process at the end.

    Args:
        space: The search file from which the configurations were drawn.
        journal: File of the journal, which several processes can share.
        rank: DDP rank of this process.
        size: Number of processes that train one model together with DDP.
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
    """Start processes that train configurations with plain Optuna; on exit wait for their end.

    The context manager yields the list of the processes.

    Args:
        calls: For each process, a tuple of the search file and the journal in which configurations
            wait. If several processes train one model with DDP, the tuple also has the process's
            rank and the number of these processes.

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
