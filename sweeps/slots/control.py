"""What is told to a job in training: whether it was pruned, whether to stop."""

import threading
from enum import IntEnum


class Stop(IntEnum):
    """When to stop."""

    NOT = 0
    AFTER_EPOCH = 1
    NOW = 2
    """Within a few steps."""


class TrialControl:
    """Told by one thread, asked by another."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._job = ""
        self._decisions: dict[int, bool] = {}
        self._stop = Stop.NOT

    def begin(self, job: str) -> None:
        """From now on this job is spoken of; of another only a stop is remembered."""
        with self._changed:
            self._job, self._decisions = job, {}
            self._changed.notify_all()

    def decide(self, job: str, epoch: int, prune: bool) -> None:
        """The study's word on an epoch that this job waits after."""
        with self._changed:
            if job == self._job:
                self._decisions[epoch] = prune
                self._changed.notify_all()

    def stop(self, when: Stop) -> None:
        """The sweep ends: this job, and any that still comes."""
        with self._changed:
            self._stop = max(self._stop, when)
            self._changed.notify_all()

    def stopped(self) -> Stop:
        """Whether to stop, and when."""
        return self._stop

    def decision(self, epoch: int, seconds: float) -> bool | None:
        """The study's word, False if told to stop meanwhile; None if neither comes in this time."""
        with self._changed:
            self._changed.wait_for(lambda: epoch in self._decisions or self._stop, seconds)
            return self._decisions.get(epoch, False if self._stop else None)

    def stop_above(self, job: str, known: Stop, seconds: float) -> Stop:
        """Wait until told to stop sooner than ``known``, or until another job is spoken of."""
        with self._changed:
            self._changed.wait_for(lambda: self._stop > known or job != self._job, seconds)
            return self._stop
