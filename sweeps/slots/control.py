"""Control of a trial in training: the study's decisions, and requests to stop."""

import threading
from enum import IntEnum


class Stop(IntEnum):
    """Request to stop, by its urgency."""

    NOT = 0
    AFTER_EPOCH = 1
    NOW = 2
    """Stop within a few training steps."""


class TrialControl:
    """Thread-safe control of a slot's trial: one thread sets it, the training thread reads it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._job = ""
        self._decisions: dict[int, bool] = {}
        self._stop = Stop.NOT

    def begin(self, job: str) -> None:
        """Start the control of a job; decisions for other jobs are dropped, a stop is kept."""
        with self._changed:
            self._job, self._decisions = job, {}
            self._changed.notify_all()

    def decide(self, job: str, epoch: int, prune: bool) -> None:
        """Set the study's decision after an epoch.

        Args:
            job: Name of the job; the decision is dropped if another job is controlled.
            epoch: The epoch.
            prune: True if the trial is pruned.
        """
        with self._changed:
            if job == self._job:
                self._decisions[epoch] = prune
                self._changed.notify_all()

    def stop(self, when: Stop) -> None:
        """Request a stop of this job and of all later ones."""
        with self._changed:
            self._stop = max(self._stop, when)
            self._changed.notify_all()

    def stopped(self) -> Stop:
        """Return the most urgent request to stop so far."""
        return self._stop

    def decision(self, epoch: int, seconds: float) -> bool | None:
        """Wait for the study's decision after an epoch.

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
        """Wait for a more urgent request to stop, or for the end of this job's control.

        Args:
            job: Name of the job.
            known: Request that is known already.
            seconds: Longest time to wait.

        Returns:
            The most urgent request so far.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stop > known or job != self._job, seconds)
            return self._stop
