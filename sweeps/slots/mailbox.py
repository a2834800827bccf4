"""Mailbox in which a slot's actor exchanges trials and events with its DDP workers.

It holds one job (trial to train) at a time. A thread of the actor puts the job in and takes its
events out. The workers take the job and put events in. The job stays in the mailbox until it has
ended and is updated by each event, so workers that replace dead ones get the remaining part of it.
"""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from sweeps.records.messages import Begin, End, Epoch, Event, Job, SlotLost, TrialFailed

SHUTDOWN: Final = "shutdown"
"""Answer to workers that ask a closed mailbox for a job."""


@dataclass(frozen=True)
class Assignment:
    """Job (trial to train) as it is handed to DDP workers.

    Attributes:
        number: Number of the assignment; it differs each time that a slot hands out a job.
        job: The job, or the remaining part of it.
    """

    number: int
    job: Job


class Mailbox:
    """Thread-safe mailbox in which DDP workers find a job (trial to train) and put its events.

    It holds one job at a time. Workers call ``take``, ``begin``, ``put`` and ``fail``; the slot's
    actor calls the other methods.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._job: Job | None = None
        self._events: deque[Event | TrialFailed] = deque()
        self._number = 0
        self._started = False
        self._deaths = 0
        self._peer_failure: TrialFailed | None = None
        self._placement_group = ""
        self._asks = 0
        self._closed = False
        self._loss: str | None = None

    def events(self, job: Job) -> Iterator[Event]:
        """Put in a job (trial to train) for the DDP workers, and yield its events until it ends.

        Raises:
            TrialFailed: If the job failed, or its workers died more often than it allows.
            SlotLost: If there are no workers and there will be none.
        """
        with self._changed:
            self._job, self._started, self._deaths, self._peer_failure = job, False, 0, None
            self._events.clear()
            self._changed.notify_all()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._events or self._loss is not None)
                if not self._events:
                    raise SlotLost(self._loss)
                event = self._events.popleft()
            if isinstance(event, TrialFailed):
                raise event
            yield event
            if isinstance(event, End):
                return

    def lose(self, reason: str) -> None:
        """Record that the DDP workers have ended and no others will come.

        Args:
            reason: Reason in one line, for the errors that waiting calls raise.
        """
        with self._changed:
            self._loss = reason
            self._changed.notify_all()

    def ready(self) -> str:
        """Wait until DDP workers ask for a job, and return the id of their placement group.

        Raises:
            SlotLost: If there are no workers and there will be none.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._placement_group or self._loss is not None)
            if self._loss is not None:
                raise SlotLost(self._loss)
            return self._placement_group

    def close(self) -> None:
        """Hand out no more jobs (trials to train); workers that ask for one get ``SHUTDOWN``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, placement_group: str, seconds: float) -> Assignment | Literal["shutdown"] | None:
        """Wait for a job (trial to train) and return it as an assignment.

        If the job was started before, its workers have died since. A worker that dies while it
        waits leaves its call open, so only the latest call gets an assignment, and a job counts as
        started only after ``begin``.

        Args:
            placement_group: Ray's id of the workers' placement group.
            seconds: Longest time to wait.

        Returns:
            The assignment; None if there is no job in time; ``SHUTDOWN`` if the mailbox is closed.
        """
        with self._changed:
            self._placement_group = placement_group
            self._asks += 1
            ask = self._asks
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._job or self._closed or ask != self._asks, seconds)
            if self._closed:
                return SHUTDOWN
            if self._job is None or ask != self._asks:
                return None
            if self._started:
                self._started = False
                self._deaths += 1
            if self._deaths > self._job.restarts:
                self._end(self._died())
                return None
            self._number += 1
            return Assignment(self._number, self._job)

    def begin(self, number: int) -> None:
        """Record that all DDP workers have started an assignment (job handed to workers).

        Args:
            number: Number of the assignment.
        """
        with self._changed:
            if number == self._number and self._job is not None:
                self._started = True
                self._add(Begin(self._deaths, self._placement_group))

    def put(self, number: int, event: Epoch | End) -> None:
        """Put in an event of the job (trial) in training, and update the job to continue after it.

        Args:
            number: Number of the assignment (handing of the job to workers); the event is dropped
                if the assignment has ended.
            event: End of an epoch, or of the trial.
        """
        with self._changed:
            if number != self._number or self._job is None:
                return
            if isinstance(event, End):
                self._end(event)
            else:
                self._job = _remaining_job(self._job, event)
                self._add(event)

    def fail(self, number: int, error: TrialFailed, own: bool) -> None:
        """Record that an assignment (job handed to workers) failed; the first failure counts.

        Args:
            number: Number of the assignment.
            error: The worker's error.
            own: True if the job caused the error. False if the error follows from the death of
                another worker; it is then reported only if workers die too often.
        """
        with self._changed:
            if number != self._number or self._job is None:
                return
            if own:
                self._end(error)
            else:
                self._peer_failure = error

    def _died(self) -> TrialFailed:
        times = "once" if self._deaths == 1 else f"{self._deaths} times"
        reason = f"its workers died {times}: no restart is left"
        if self._peer_failure is None:
            return TrialFailed(reason, reason)
        last = self._peer_failure
        return TrialFailed(f"{reason}; the last one alive: {last.reason}", last.trace)

    def _end(self, event: End | TrialFailed) -> None:
        self._job = None
        # Later events of this assignment are dropped, also before the next one is taken.
        self._number += 1
        self._add(event)

    def _add(self, event: Event | TrialFailed) -> None:
        self._events.append(event)
        self._changed.notify_all()


def _remaining_job(job: Job, event: Epoch) -> Job:
    """Return the job that continues a trial after an epoch, from the epoch's checkpoint."""
    epoch, best = event.result["epoch"], set(event.result["best_epochs"].values())
    weights = {e: w for e, w in job.weights.items() if e in best or e > epoch}
    if event.weights is not None:
        weights[epoch] = event.weights
    return replace(
        job,
        reported=epoch,
        undecided=job.waits_after(event.result),
        checkpoint=event.checkpoint or job.checkpoint,
        weights=weights,
    )
