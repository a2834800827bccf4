"""Where a trial's call and the workers of a group slot meet: one job lies here at a time.

The trial's side puts a job here and takes its events; the workers' side takes the job and puts
events here. The job is kept, as far as its events have come, until it has ended: workers that take
over from ones that died are handed what is left of it.
"""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from sweeps.records.messages import Begin, End, Epoch, Event, Job, SlotLost, TrialFailed

SHUTDOWN: Final = "home"
"""There is no more work."""


@dataclass(frozen=True)
class Assignment:
    """A job in the workers' hands; ``number`` tells one hand-out from another."""

    number: int
    job: Job


class Mailbox:
    """Thread-safe; ``take``, ``begin``, ``put``, ``fail`` are the workers', the rest the slot's."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._job: Job | None = None
        self._events: deque[Event | TrialFailed] = deque()
        self._number = 0
        self._begun = False
        self._deaths = 0
        self._last_words: TrialFailed | None = None
        self._placement_group = ""
        self._takers = 0
        self._closed = False
        self._lost: str | None = None

    def events(self, job: Job) -> Iterator[Event]:
        """Put a job here and take its events until it has ended.

        Raises:
            TrialFailed: The job broke, or its workers died once more than it allows.
            SlotLost: There are no workers and there will be none.
        """
        with self._changed:
            self._job, self._begun, self._deaths, self._last_words = job, False, 0, None
            self._events.clear()
            self._changed.notify_all()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._events or self._lost is not None)
                if not self._events:
                    raise SlotLost(self._lost)
                event = self._events.popleft()
            if isinstance(event, TrialFailed):
                raise event
            yield event
            if isinstance(event, End):
                return

    def lose(self, reason: str) -> None:
        """The workers are gone for good."""
        with self._changed:
            self._lost = reason
            self._changed.notify_all()

    def ready(self) -> str:
        """Wait for workers to come; the id of their placement group."""
        with self._changed:
            self._changed.wait_for(lambda: self._placement_group or self._lost is not None)
            if self._lost is not None:
                raise SlotLost(self._lost)
            return self._placement_group

    def close(self) -> None:
        """No more jobs: whoever asks for one is sent home."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def take(self, placement_group: str, seconds: float) -> Assignment | Literal["home"] | None:
        """What to train, or None if nothing comes in this time.

        A job that was begun before is one whose workers died. Who asked and died leaves a call
        behind: only the last one to ask takes something, and what a dead one takes is not begun.

        Returns:
            ``SHUTDOWN`` once the mailbox is closed.
        """
        with self._changed:
            self._placement_group = placement_group
            self._takers += 1
            me = self._takers
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._job or self._closed or me != self._takers, seconds)
            if self._closed:
                return SHUTDOWN
            if self._job is None or me != self._takers:
                return None
            if self._begun:
                self._begun = False
                self._deaths += 1
            if self._deaths > self._job.restarts:
                self._end(self._died())
                return None
            self._number += 1
            return Assignment(self._number, self._job)

    def begin(self, number: int) -> None:
        """All workers have the job handed out under this number."""
        with self._changed:
            if number == self._number and self._job is not None:
                self._begun = True
                self._add(Begin(self._deaths, self._placement_group))

    def put(self, number: int, event: Epoch | End) -> None:
        """An event of the job handed out under this number; one that comes too late is dropped."""
        with self._changed:
            if number != self._number or self._job is None:
                return
            if isinstance(event, End):
                self._end(event)
            else:
                self._job = _left_of(self._job, event)
                self._add(event)

    def fail(self, number: int, error: TrialFailed, own: bool) -> None:
        """The job handed out under this number broke; the first word on it counts.

        Args:
            number: Of the hand-out.
            error: What a worker met.
            own: Whether it is the job's; if not, it follows from a worker's death, and is all that
                is known if one dies too often.
        """
        with self._changed:
            if number != self._number or self._job is None:
                return
            if own:
                self._end(error)
            else:
                self._last_words = error

    def _died(self) -> TrialFailed:
        times = "once" if self._deaths == 1 else f"{self._deaths} times"
        reason = f"its workers died {times}: no restart is left"
        if self._last_words is None:
            return TrialFailed(reason, reason)
        last = self._last_words
        return TrialFailed(f"{reason}; the last one alive: {last.reason}", last.trace)

    def _end(self, event: End | TrialFailed) -> None:
        self._job = None
        # What still comes is late, also once the next job lies here and nobody has taken it yet.
        self._number += 1
        self._add(event)

    def _add(self, event: Event | TrialFailed) -> None:
        self._events.append(event)
        self._changed.notify_all()


def _left_of(job: Job, event: Epoch) -> Job:
    """What is left of a job after an epoch."""
    epoch, best = event.result["epoch"], set(event.result["best_epochs"].values())
    weights = {e: w for e, w in job.weights.items() if e in best or e > epoch}
    if event.weights is not None:
        weights[epoch] = event.weights
    return replace(
        job,
        reported=epoch,
        undecided=epoch in job.rungs,
        checkpoint=event.checkpoint or job.checkpoint,
        weights=weights,
    )
