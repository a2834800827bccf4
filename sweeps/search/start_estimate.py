"""Estimate of a sweep's time while its first trial trains, and the question to go on."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mtl.config import read_config
from mtl.errors import in_one_line
from mtl.training.batch_time import BatchTime
from sweeps.cli.question import answers_no
from sweeps.planning.cost_table import duration_range
from sweeps.planning.plan import Plan, SizedConfig, count_parameters
from sweeps.planning.sweep_time import LONG_SECONDS, SweepTime, estimate
from sweeps.planning.time_estimate import TimedConfig, work_of
from sweeps.records.messages import Job
from sweeps.search.batch_timer import Timer, time_configs
from sweeps.search.watcher import Watcher
from sweeps.study import Proposal


class StartEstimate(Watcher):
    """Observer of a search that estimates the sweep's time once, beside the first trial.

    The batches of a few configs are timed. Slots on GPUs hold them, and a second process on a GPU
    could take the memory of the first trial. There the first two epochs of a trial are timed.

    Args:
        plan: The search file, checked against the dataset.
        slots: Number of trials that train at the same time.
        timer: Function that times a config's batches; None to time the epochs of the first trial.
        where: Place where the timer times, for the user.
        say: Function that prints a sentence for the user.
        ask: True to ask the user of the terminal if the time is above four hours.
    """

    def __init__(
        self,
        plan: Plan,
        slots: int,
        timer: Timer | None,
        where: str,
        say: Callable[[str], None],
        ask: bool,
    ) -> None:
        self._plan, self._slots, self._timer, self._where = plan, slots, timer, where
        self._say, self._ask = say, ask
        self._due, self._over = threading.Event(), threading.Event()
        self._first: tuple[Proposal, Job] | None = None
        self._epoch_ended = 0.0
        self._seconds = 0.0, 0.0

    @contextmanager
    def running(self, stop: Callable[[], None]) -> Iterator[None]:
        """Context manager that runs the thread; on leaving it waits until no config is timed.

        Args:
            stop: Function that ends the sweep so that it can be resumed; called if the user of the
                terminal does not want to go on.
        """
        thread = threading.Thread(target=self._work, args=(stop,), name="estimate", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._due.set()
            thread.join()

    def started(self, proposal: Proposal, job: Job) -> None:
        """Begin to time when the first trial has started, or the next one after its early end.

        Args:
            proposal: The trial.
            job: The trial as it was sent to a slot (process or group of DDP workers).
        """
        if self._first is None:
            self._first, self._epoch_ended = (proposal, job), 0.0
            if self._timer:
                self._due.set()

    def epoch(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        """Time the second epoch of the first trial, if no batches are timed.

        Args:
            proposal: The trial.
            result: Fields of ``mtl.training.trainer.EpochResult``.
        """
        if self._timer or self._due.is_set() or not self._is_first(proposal):
            return
        before, self._epoch_ended = self._epoch_ended, time.monotonic()
        if before:
            seconds: float = result["seconds"]
            self._seconds = seconds, max(0.0, self._epoch_ended - before - seconds)
            self._due.set()

    def again(self, proposal: Proposal, reason: str) -> None:
        """Take the next trial if the process of the first one died before its second epoch.

        Args:
            proposal: The trial.
            reason: What died.
        """
        if not self._due.is_set() and self._is_first(proposal):
            self._first = None

    def ended(self, proposal: Proposal, state: str, reason: str | None) -> None:
        """Take the next trial if the first one ended before its second epoch.

        Args:
            proposal: The trial.
            state: State of the ended trial.
            reason: Cause of a failure; else None.
        """
        self.again(proposal, state)

    def _is_first(self, proposal: Proposal) -> bool:
        if self._first is None:
            return False
        first = self._first[0]
        return (first.study, first.number) == (proposal.study, proposal.number)

    def _work(self, stop: Callable[[], None]) -> None:
        self._due.wait()
        try:
            found = None if self._over.is_set() else self._estimate()
        except Exception as error:
            found = None
            if not self._over.is_set():
                self._say(f"the sweep's time could not be estimated: {in_one_line(error)}")
        if found is None or self._over.is_set():
            return
        slots = f"{self._slots} slot{'s' if self._slots > 1 else ''}"
        text = f"the sweep takes {duration_range(found)} on {slots} ({self._where})"
        if not (self._ask and found.expected_seconds > LONG_SECONDS):
            self._say(text)
            return
        self._say(f"{text}; it has begun: go on? [Y/n]")
        if answers_no(self._over.is_set):
            stop()

    def _estimate(self) -> SweepTime | None:
        if self._timer:
            timed = time_configs(self._plan, self._timer, self._over.is_set)
        else:
            timed = [self._timed_epoch()]
        return estimate(self._plan, timed, self._slots)

    def _timed_epoch(self) -> TimedConfig:
        """Return the first trial's config with the times of its second epoch, by batch."""
        assert self._first is not None, "no trial has started"
        config = read_config(self._first[1].config)
        sized = SizedConfig(config, count_parameters(config, self._plan.dataset, self._plan.tasks))
        work = work_of(self._plan, config)
        training, rest = self._seconds
        batch = BatchTime(training / work.training_steps, rest / max(1, work.select_steps), 0)
        return TimedConfig(sized, work, batch)
