"""Observers of a search: the live table of its trials, and the estimate of its time."""

from collections.abc import Mapping
from typing import Any

from sweeps.records.messages import Job
from sweeps.study import Proposal


class Watcher:
    """Observer whose methods are called at events of a search; the live table is one."""

    def started(self, proposal: Proposal, job: Job) -> None:
        """Observe that a trial has started or continues; the base class does nothing.

        Args:
            proposal: The trial.
            job: The trial as it was sent to a slot (process or group of DDP workers).
        """

    def epoch(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        """Observe the end of a trial's epoch; the base class does nothing.

        Args:
            proposal: The trial.
            result: Fields of ``mtl.training.trainer.EpochResult``.
        """

    def again(self, proposal: Proposal, reason: str) -> None:
        """Observe that a trial's process died; the base class does nothing.

        The trial will continue after its last recorded epoch.

        Args:
            proposal: The trial.
            reason: What died, such as "its workers died".
        """

    def ended(self, proposal: Proposal, state: str, reason: str | None) -> None:
        """Observe the end of a trial; the base class does nothing.

        Args:
            proposal: The trial.
            state: State of the ended trial: "complete", "pruned", "failed" or "interrupted".
            reason: Cause of a failure, in one line; "collapsed" if the trial was pruned because all
                its tasks had collapsed; else None.
        """

    def say(self, text: str) -> None:
        """Observe a message for the user; the base class does nothing.

        Args:
            text: The message, a sentence.
        """


class Watchers(Watcher):
    """Observer that passes each event of a search on to several others, in order.

    Args:
        *watchers: The others.
    """

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def started(self, proposal: Proposal, job: Job) -> None:
        """Pass on that a trial has started or continues; see `Watcher.started`."""
        for watcher in self._watchers:
            watcher.started(proposal, job)

    def epoch(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        """Pass on the end of a trial's epoch; see `Watcher.epoch`."""
        for watcher in self._watchers:
            watcher.epoch(proposal, result)

    def again(self, proposal: Proposal, reason: str) -> None:
        """Pass on that a trial's process died; see `Watcher.again`."""
        for watcher in self._watchers:
            watcher.again(proposal, reason)

    def ended(self, proposal: Proposal, state: str, reason: str | None) -> None:
        """Pass on the end of a trial; see `Watcher.ended`."""
        for watcher in self._watchers:
            watcher.ended(proposal, state, reason)

    def say(self, text: str) -> None:
        """Pass on a message for the user; see `Watcher.say`."""
        for watcher in self._watchers:
            watcher.say(text)
