"""Control of a trial in training: decisions to prune or go on, and requests to stop."""

import threading
from enum import IntEnum


class Stop(IntEnum):
    """Urgency of a request to stop training."""

    NOT = 0
    AFTER_EPOCH = 1
    NOW = 2
    """Request to stop within a few training steps."""


class TrialControl:
    """Thread-safe store of pruning decisions and stop requests for the trial in training.

    One thread of the process sets them, and the training thread reads them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._job = ""
        self._decisions: dict[int, bool] = {}
        self._stop = Stop.NOT

    def begin(self, job: str) -> None:
        """Start the control of a trial: drop earlier decisions, keep a request to stop.

        Args:
            job: Name of the trial's job.
        """
        with self._changed:
            self._job, self._decisions = job, {}
            self._changed.notify_all()

    def decide(self, job: str, epoch: int, prune: bool) -> None:
        """Set the study's decision to prune a trial after an epoch, or to go on.

        Args:
            job: Name of the trial's job; the decision is dropped if another job is in training.
            epoch: The epoch.
            prune: True if the trial is pruned.
        """
        with self._changed:
            if job == self._job:
                self._decisions[epoch] = prune
                self._changed.notify_all()

    def stop(self, when: Stop) -> None:
        """Request that the trial in training and all later ones stop.

        Args:
            when: Urgency: after the current epoch, or at once. A less urgent request than an
                earlier one changes nothing.
        """
        with self._changed:
            self._stop = max(self._stop, when)
            self._changed.notify_all()

    def stopped(self) -> Stop:
        """Return the most urgent request to stop so far; ``Stop.NOT`` without one."""
        return self._stop

    def decision(self, epoch: int, seconds: float) -> bool | None:
        """Wait for the study's decision to prune the trial after an epoch, or to go on.

        Args:
            epoch: The epoch.
            seconds: Longest time to wait.

        Returns:
            True if the trial is pruned; False if it continues or a stop was requested; None if
            neither came in time.
        """
        with self._changed:
            self._changed.wait_for(lambda: epoch in self._decisions or self._stop, seconds)
            return self._decisions.get(epoch, False if self._stop else None)

    def stop_above(self, job: str, known: Stop, seconds: float) -> Stop:
        """Wait for a more urgent request to stop than a known one, or for the next trial.

        Args:
            job: Name of the job in training; the wait ends if another job starts.
            known: The most urgent request that the caller knows.
            seconds: Longest time to wait.

        Returns:
            The most urgent request so far.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stop > known or job != self._job, seconds)
            return self._stop
