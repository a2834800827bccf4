"""When a sweep ends before its last trial: failures, the disk, the budget of minutes."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sweeps.search.training_clock import TrainingClock
from sweeps.search_file import BudgetSection
from sweeps.storage.kept_weights import KeptWeights
from sweeps.study import SweepStudy

FREE_BYTES = 5 * 10**8
RESERVE_SECONDS = 60
"""So long before ``budget.until`` training stops: the end of a sweep takes time too."""


@dataclass(frozen=True)
class Limits:
    """A sweep's budget, and what has been used of it."""

    budget: BudgetSection
    folder: Path
    study: SweepStudy
    kept_weights: KeptWeights
    clock: TrainingClock

    def halt(self) -> str | None:
        """Why no more trials should be taken up, or None."""
        return self.spent() or self._too_many_failures() or self._disk_full()

    def spent(self) -> str | None:
        """Why no more epochs should be trained, or None."""
        return self.late() or self._minutes_spent()

    def planned(self, why: str) -> bool:
        """Whether a sweep that ended for this reason ended as its budget says."""
        return why in (self.late(), self._minutes_spent())

    def _minutes_spent(self) -> str | None:
        minutes = self.budget.minutes
        if minutes is None or self.clock.seconds < 60 * minutes:
            return None
        return f"budget.minutes = {minutes:g} of training are spent: raise it to go on"

    def late(self) -> str | None:
        """Why what trains should stop at once, or None."""
        return too_late(self.budget)

    def _too_many_failures(self) -> str | None:
        failures = self.study.failures()
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
    """Why there is no time left to train, or None."""
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
