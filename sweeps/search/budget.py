"""Limits that end a sweep before its last trial: time, failures, disk space."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sweeps.search.training_clock import TrainingClock
from sweeps.search_file import BudgetSection
from sweeps.storage.kept_weights import KeptWeights
from sweeps.study import SweepStudy

FREE_BYTES = 5 * 10**8
"""Free space of the disk below which no more trials start."""
RESERVE_SECONDS = 60
"""Time between the end of training and ``budget.until``, for fusion and reports."""


@dataclass(frozen=True)
class Limits:
    """Budget of a sweep, and the objects that measure its use.

    Attributes:
        budget: The search file's budget.
        folder: The run folder.
        study: The sweep's study.
        kept_weights: The kept weights, which measure the size of the trials.
        clock: The clock of training time.
    """

    budget: BudgetSection
    folder: Path
    study: SweepStudy
    kept_weights: KeptWeights
    clock: TrainingClock

    def halt(self) -> str | None:
        """Return the reason why no more trials start; None while there is none."""
        return self.spent() or self._too_many_failures() or self._disk_full()

    def spent(self) -> str | None:
        """Return the reason why trials stop after their next epoch; None while there is none."""
        return self.late() or self._minutes_spent()

    def planned(self, reason: str) -> bool:
        """Return True if a sweep that ended for this reason ended by its budget of time."""
        return reason in (self.late(), self._minutes_spent())

    def _minutes_spent(self) -> str | None:
        minutes = self.budget.minutes
        if minutes is None or self.clock.seconds < 60 * minutes:
            return None
        return f"budget.minutes = {minutes:g} of training are spent: raise it to go on"

    def late(self) -> str | None:
        """Return the reason why running trials stop at once; None while there is none."""
        return too_late(self.budget)

    def _too_many_failures(self) -> str | None:
        failures = self.study.record.failures()
        if len(failures) <= self.budget.failures:
            return None
        last = failures[-1].user_attrs.get("reason")
        return (
            f"{len(failures)} trials failed, more than budget.failures = {self.budget.failures}; "
            f"the last: {last}; raise budget.failures, or train them again with --retry-failed"
        )

    def _disk_full(self) -> str | None:
        limit = self.budget.disk_gb
        if limit is not None and self.kept_weights.gb > limit:
            return (
                f"{self.folder} holds {self.kept_weights.gb:.1f} GB, more than "
                f"budget.disk_gb = {limit:g}: raise it"
            )
        if shutil.disk_usage(self.folder).free < FREE_BYTES:
            return (
                f"the disk of {self.folder} has less than {FREE_BYTES / 1e9:g} GB left: free some"
            )
        return None


def too_late(budget: BudgetSection) -> str | None:
    """Return the reason why there is no time left to train; None while there is time."""
    if budget.until is None:
        return None
    left = (budget.until - datetime.now(UTC)).total_seconds()
    if left > RESERVE_SECONDS:
        return None
    when = budget.until.isoformat(sep=" ", timespec="minutes")
    return (
        f"budget.until = {when} is reached, less the {RESERVE_SECONDS} s that the end takes: "
        "give a later one to go on"
    )
