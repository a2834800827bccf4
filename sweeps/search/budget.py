"""Limits that end a sweep before its last trial: time, failures, disk space."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sweeps.planning.disk import DiskNeed
from sweeps.search.training_clock import TrainingClock
from sweeps.search_file import BudgetSection
from sweeps.storage.disk_space import FREE_BYTES
from sweeps.storage.kept_weights import KeptWeights
from sweeps.study import SweepStudy

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
        need: Most disk space that the sweep needs.
    """

    budget: BudgetSection
    folder: Path
    study: SweepStudy
    kept_weights: KeptWeights
    clock: TrainingClock
    need: DiskNeed

    def halt(self) -> str | None:
        """Return the reason why no more trials may start, as a sentence; None if they may."""
        above = self._above_limit()
        no_space = f"{above}: raise it" if above else self.disk_full()
        return self.spent() or self._too_many_failures() or no_space

    def disk_full(self, growth_bytes: int = 0) -> str | None:
        """Return a sentence for the user if the disk lacks space, else None.

        Args:
            growth_bytes: Disk space that trials may take while they train; the disk must have
                `FREE_BYTES` more.
        """
        lack = self._lack_of_space(growth_bytes)
        need = ", which the next trial may need" if growth_bytes else ""
        return f"{lack}{need}: free some" if lack else None

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

    def ample_disk(self, trials: int) -> bool:
        """Return True if the disk has room for trials in training, even of the largest model.

        Args:
            trials: Number of trials.
        """
        most = trials * self.need.running_bytes + self.need.predictions_bytes
        return self._lack_of_space(most) is None

    def make_room(self, growth_bytes: int = 0) -> str | None:
        """Remove weights while the trials' files exceed their limit or may fill the disk.

        In each task, weights of the trials with the lowest ranks go first. Predictions and scores
        are never removed. Nothing is removed if no trial would start nevertheless, or after the
        trials to train on folds are chosen, since they are those to fuse.

        Args:
            growth_bytes: Disk space that the trials in training and the next one may still take;
                0 before the next one is known.

        Returns:
            A sentence for the user if weights were removed, else None.
        """
        reason = lack = self._above_limit() or self._lack_of_space(growth_bytes)
        if not lack or not self._may_remove(growth_bytes):
            return None
        keep = self.kept_weights.keep
        # The number of kept trials is written first, for which a full disk may have no room.
        with suppress(OSError):
            while lack and self.kept_weights.keep_fewer():
                lack = self._above_limit() or self._lack_of_space(growth_bytes)
        if self.kept_weights.keep == keep:
            return None
        return (
            f"{reason}; only the weights of each task's best {self.kept_weights.keep} trials are "
            "kept from now on"
        )

    def _may_remove(self, growth_bytes: int) -> bool:
        """Return True if a trial is due that can start once weights are removed."""
        if self.spent() or self._too_many_failures() or self.study.refitting:
            return False
        # The next trial is no longer queued once its growth is known.
        if not growth_bytes and not self.study.has_next():
            return False
        limit = self.need.limit_gb(self.budget.disk_gb)
        free = shutil.disk_usage(self.folder).free
        excess = max(1e9 * (self.kept_weights.gb - limit), FREE_BYTES + growth_bytes - free)
        return excess <= self.kept_weights.removable_bytes()

    def _above_limit(self) -> str | None:
        limit = self.need.limit_gb(self.budget.disk_gb)
        if self.kept_weights.gb <= limit:
            return None
        size = self.kept_weights.gb
        held = f"{size:.1f}" if size >= 1 else f"{size:.2g}"
        auto = " (auto)" if self.budget.disk_gb == "auto" else ""
        return f"{self.folder} holds {held} GB, more than budget.disk_gb = {limit:.4g}{auto}"

    def _lack_of_space(self, growth_bytes: int) -> str | None:
        """Return a reason if less than `FREE_BYTES` and this growth are free, else None."""
        least = FREE_BYTES + growth_bytes
        if shutil.disk_usage(self.folder).free >= least:
            return None
        return f"the disk of {self.folder} has less than {least / 1e9:.2g} GB left"


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
