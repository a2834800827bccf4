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
"""Bytes of free disk space below which no more trials start."""
RESERVE_SECONDS = 60
"""Seconds between the end of training and ``budget.until``, left for fusion and reports.

The key ``budget.until`` of the search file is the time by which the sweep ends.
"""


@dataclass(frozen=True)
class Limits:
    """Limits of a sweep's time, failures and disk space, and the objects that measure their use.

    Attributes:
        budget: Budget section of the search file.
        folder: The run folder.
        study: The sweep's study, which has the number of failed trials.
        kept_weights: Counter of the disk space that the trials use.
        clock: Clock of the training time.
    """

    budget: BudgetSection
    folder: Path
    study: SweepStudy
    kept_weights: KeptWeights
    clock: TrainingClock

    def halt(self) -> str | None:
        """Return the reason why no more trials may start, as a sentence; None if they may."""
        return self.spent() or self._too_many_failures() or self._disk_full()

    def spent(self) -> str | None:
        """Return the reason why running trials must stop after their current epoch, or None.

        The reason is that ``budget.minutes`` are spent or ``budget.until`` is reached.
        """
        return self.late() or self._minutes_spent()

    def planned(self, reason: str) -> bool:
        """Return True if a sweep that ended for this reason has used up its budget of time.

        Such an end is planned by the user, unlike an end by failures or by a full disk.
        """
        return reason in (self.late(), self._minutes_spent())

    def _minutes_spent(self) -> str | None:
        minutes = self.budget.minutes
        if minutes is None or self.clock.seconds < 60 * minutes:
            return None
        return f"budget.minutes = {minutes:g} of training are spent: raise it to go on"

    def late(self) -> str | None:
        """Return the reason why running trials must stop at once, or None.

        The reason is that the time of ``budget.until`` is reached.
        """
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
    """Return a sentence if no time is left to train before ``budget.until``, else None."""
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
