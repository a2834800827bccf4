"""Simulated training of a sweep's trials on a virtual clock.

With simulated training, the real time of the driver (the process that draws trials and records
results) can be measured for thousands of trials.
"""

import functools
import os
import time
from collections import Counter
from collections.abc import Iterator
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import TrialState

from sweeps.planning.compose import compose, signature
from sweeps.planning.space import Space
from sweeps.search_file import SearchFile
from sweeps.study import Proposal, SweepStudy
from sweeps.study.record import StudyRecord

SEED = 0
"""Seed of the simulated learning curves and durations; the sampler has another seed."""


class Stopwatch:
    """Stopwatch for the milliseconds spent in watched functions, summed by category.

    A category is a name such as "study" under which the times of several functions are added up.
    The time of nested calls of one category counts once.
    """

    def __init__(self) -> None:
        self._spent: Counter[str] = Counter()
        self._active: list[str] = []

    @classmethod
    def on_studies(cls) -> "Stopwatch":
        """Return a stopwatch on the functions of an Optuna study that a sweep calls for each trial.

        The category "study" holds all time in these functions; "disk" and "sampling" hold the parts
        of this time that are spent on writing to disk and in the sampler.
        """
        watch = cls()
        watch.watch(SweepStudy, "ask", "study")
        for name in ("report", "tell", "failures", "ended"):
            watch.watch(StudyRecord, name, "study")
        watch.watch(os, "fsync", "disk")
        watch.watch(Space, "sample", "sampling")
        return watch

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Replace a function by a version that adds its time to the stopwatch.

        Args:
            owner: Class or module that holds the function.
            name: Name of the function.
            part: Category under which the time is counted. Categories other than "study" are
                counted only during a call of the category "study".
        """
        call = getattr(owner, name)

        @functools.wraps(call)
        def timed(*arguments: Any, **named: Any) -> Any:
            if part in self._active or not (part == "study" or self._active):
                return call(*arguments, **named)
            self._active.append(part)
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                self._spent[part] += 1e3 * (time.perf_counter() - wall)
                self._spent[f"{part} cpu"] += 1e3 * (time.thread_time() - cpu)
                self._active.remove(part)

        setattr(owner, name, timed)

    def lap(self) -> Counter[str]:
        """Return the milliseconds spent in watched functions since the last call, and reset them.

        Returns:
            For each category of functions, such as "study", wall time under the category's name and
            CPU time under the name with " cpu" added. A category without calls counts as 0.
        """
        spent, self._spent = self._spent, Counter()
        return spent


def open_study(folder: Path, file: SearchFile, trials: int, sampler: str) -> SweepStudy:
    """Open or create the Optuna study of a search file, as `sweeps/run.py` does.

    Args:
        folder: Folder of the study's journal.
        file: The search file.
        trials: Number of trials after which the study proposes no more.
        sampler: Name of the sampler, such as ``random`` or ``tpe``; the search file's is ignored.
    """
    space = Space(file)
    combinations = space.comparisons()
    return SweepStudy(
        folder,
        name=file.name,
        combinations=combinations,
        labels=[space.label(combination) for combination in combinations],
        trials=trials,
        sampler=sampler,
        seed=file.search.seed,
        pruner=file.pruner,
        sample=space.sample,
        sign=lambda overrides: signature(compose(overrides), "scale"),
    )


class FakeSlots:
    """Simulated slots (processes that train one trial after another) on a virtual clock.

    Iterating over the object runs all trials of an Optuna study with random scores. For each trial
    that ends, the iterator yields the real milliseconds spent in the study's functions since the
    previous trial ended. They are counted by category: "study" (all functions), and its parts
    "disk" and "sampling", each as wall time and, with " cpu" added to the key, as CPU time.

    Args:
        study: The Optuna study.
        slots: Number of simulated slots.
        epochs: Number of epochs of a trial that is not pruned.
        watch: Stopwatch on the study's functions.
    """

    def __init__(self, study: SweepStudy, slots: int, epochs: int, watch: Stopwatch) -> None:
        self._study, self._epochs, self._watch = study, epochs, watch
        # A heap of running epochs: end time, trial number, epoch, proposal.
        self._training: list[tuple[float, int, int, Proposal]] = []
        # Times since which slots are free.
        self._free = [0.0] * slots

    def __iter__(self) -> Iterator[Counter[str]]:
        return self

    def __next__(self) -> Counter[str]:
        self._watch.lap()
        while self._free:
            self._start(self._free.pop())
        while self._training:
            now, number, epoch, proposal = heappop(self._training)
            prune = self._study.record.report(proposal.study, number, epoch, value(number, epoch))
            if prune or epoch == self._epochs:
                state = TrialState.PRUNED if prune else TrialState.COMPLETE
                self._study.record.tell(proposal.study, number, state)
                self._study.record.ended()
                self._free.append(now)
                return self._watch.lap()
            self._train(now, epoch + 1, proposal)
        raise StopIteration

    def _start(self, now: float) -> None:
        self._study.record.failures()
        proposal = self._study.ask()
        if proposal is not None:
            self._train(now, 1, proposal)

    def _train(self, now: float, epoch: int, proposal: Proposal) -> None:
        seconds = np.random.default_rng([SEED, proposal.number, epoch]).exponential()
        heappush(self._training, (now + seconds, proposal.number, epoch, proposal))


def value(number: int, epoch: int) -> float:
    """Return the simulated score of a trial at an epoch, a point of the trial's learning curve.

    The curve rises to a level in [0, 1]; level and speed are random but fixed for each trial.

    Args:
        number: Number of the trial.
        epoch: Number of the epoch, from 1.
    """
    level, speed = np.random.default_rng([SEED, number]).random(2)
    return float(level * (1 - np.exp(-epoch * (0.2 + speed))))
