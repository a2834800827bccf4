"""Plain Optuna over a search file: what the other benchmarks hold a sweep against.

Each process has one torch thread, loads the features that its trials ask for out of the dataset's
files, takes the next configuration from a journal that all share, and trains it by the calls that a
slot makes. Nothing is written but that journal: which trial begins, and what it came to.
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
from sweeps.train import Files

STUDY = "plain"


def draw(space: Path, folder: Path) -> list[FrozenTrial]:
    """All trials that a sweep by this search file will draw.

    Args:
        space: The search file; its sampler is ``random``, so what trials come to does not matter.
        folder: Where to keep the study that draws them.
    """
    file = load(space)
    study = open_study(folder, make_plan(file, open_data(file.data)), DriverLock(folder))
    while study.ask() is not None:
        pass
    drawn = [trial for trials in study.trials().values() for trial in trials]
    study.close()
    return drawn


def enqueue(journal: Path, configurations: Sequence[FrozenTrial]) -> None:
    """A new journal in which the configurations of these trials wait."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name=STUDY, storage=_storage(journal), direction="maximize")
    for trial in configurations:
        study.enqueue_trial(trial.params, user_attrs={"waited": True})


def ended(journal: Path, study: str = STUDY) -> list[FrozenTrial]:
    """The trials of a journal that came to a value, in the order in which they did."""
    trials = optuna.load_study(study_name=study, storage=_storage(journal)).trials
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(done, key=lambda trial: str(trial.datetime_complete))


def read_data(file: SearchFile) -> SlotData:
    """The data of a search file's trials, each feature set read when it is first asked for."""
    dataset = open_data(file.data)
    listing = dataset.listing()
    parts = divide(listing, file.search.confirm, file.search.seed)
    return SlotData(Files(dataset, listing), listing, parts)


def work(space: Path, journal: Path, rank: int = 0, size: int = 1) -> None:
    """Train what waits in the journal, alone or as one of ``size`` that train each model together:
    these end their process.

    A trial's ``seconds`` are those of its training alone, ``epoch_seconds`` those of its epochs.
    """
    torch.set_num_threads(1)
    if size > 1:
        meeting = f"file://{journal}.meeting"
        torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=size)
    workers = Workers.joined()
    file = load(space)
    data, points = read_data(file), Space(file)
    study = None
    if rank == 0:
        study = optuna.load_study(study_name=STUDY, storage=_storage(journal))
    while True:
        trial = study.ask() if study else None
        # With none left to wait, Optuna makes one up.
        waited = trial is not None and "waited" in trial.user_attrs
        overrides = workers.broadcast_object(points.sample(trial) if trial and waited else None)
        if overrides is None:
            break
        started = time.perf_counter()
        config = compose(overrides)
        epochs, _ = train(config, data.of(config), workers)
        if trial and study:
            trial.set_user_attr("seconds", time.perf_counter() - started)
            trial.set_user_attr("epoch_seconds", sum(epoch.seconds for epoch in epochs))
            study.tell(trial, epochs[-1].objective)
    if trial and study:
        study.tell(trial, state=TrialState.FAIL)
    if size > 1:
        # Gloo may abort a process whose peer has gone while its threads end: none of them is ended.
        torch.distributed.barrier()
        os._exit(0)


@contextmanager
def working(*calls: tuple[Any, ...]) -> Iterator[list[BaseProcess]]:
    """A process for each call of ``work``; when this is left, all have come to their end."""
    new = multiprocessing.get_context("spawn").Process
    processes = [new(target=work, args=arguments) for arguments in calls]
    try:
        for process in processes:
            process.start()
        yield list(processes)
        for process in processes:
            process.join()
            assert process.exitcode == 0, f"plain Optuna ended with exit code {process.exitcode}"
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()


def _storage(journal: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(journal)))
