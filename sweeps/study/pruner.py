"""Asynchronous successive halving that decides from the recorded values alone."""

import math
from bisect import bisect_right, insort
from collections import defaultdict
from typing import Protocol


def rungs(min_epochs: int, reduction_factor: int, epochs: int) -> tuple[int, ...]:
    """Return the epochs, up to `epochs`, of possible pruning: min_epochs * reduction_factor**k."""
    found = []
    rung = min_epochs
    while rung <= epochs:
        found.append(rung)
        rung *= reduction_factor
    return tuple(found)


class PrunerSettings(Protocol):
    """Pruner section of the search file; its kind is `asha` or `none`."""

    @property
    def kind(self) -> str:
        """Name of the method."""

    @property
    def min_epochs(self) -> int:
        """First rung."""

    @property
    def reduction_factor(self) -> int:
        """Ratio of a rung to the one before; 1 / reduction_factor of a rung's trials continue."""


class AsynchronousHalving:
    """Pruner that keeps, at each rung, the best 1 / reduction_factor of a study's trials.

    Method of Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", without
    promotion of stopped trials; higher is better. If every epoch is reported, its decisions equal
    those of Optuna's `SuccessiveHalvingPruner(min_epochs, reduction_factor)`. Optuna's pruner sets
    `completed_rung_k` in the trial before it decides, and a second call returns "continue", so
    after a crash in between a trial is not pruned. This class keeps only the values, each `add`ed
    when it is recorded or read back, and a second call returns the same decision. The values are
    sorted: Optuna's scan of all trials at each rung doubled the driver's time for a trial within
    4,000 trials.

    Args:
        min_epochs: First rung.
        reduction_factor: Ratio of a rung to the one before.

    Raises:
        ValueError: If min_epochs < 1 or reduction_factor < 2.
    """

    def __init__(self, min_epochs: int, reduction_factor: int) -> None:
        if min_epochs < 1 or reduction_factor < 2:
            raise ValueError(
                "`min_epochs >= 1` and `reduction_factor >= 2` must hold, "
                f"but got (min_epochs={min_epochs}, reduction_factor={reduction_factor})."
            )
        self._min_epochs = min_epochs
        self._reduction_factor = reduction_factor
        self._reached: dict[tuple[str, int], list[float]] = defaultdict(list)  # ascending

    def is_rung(self, epoch: int) -> bool:
        """Return True if a trial may be pruned after this epoch."""
        return epoch in rungs(self._min_epochs, self._reduction_factor, epoch)

    def add(self, study: str, epoch: int, value: float) -> None:
        """Add a trial's value after an epoch; NaN is ignored."""
        if self.is_rung(epoch) and not math.isnan(value):
            insort(self._reached[study, epoch], value)

    def stops(self, study: str, epoch: int, value: float) -> bool:
        """Return True if a trial is pruned after this epoch.

        Args:
            study: Name of the trial's study.
            epoch: The epoch; no trial is pruned if it is no rung.
            value: The trial's value after this epoch, `add`ed before; NaN is always pruned.
        """
        if not self.is_rung(epoch):
            return False
        reached = self._reached[study, epoch]
        better = len(reached) - bisect_right(reached, value)
        return math.isnan(value) or better >= max(1, len(reached) // self._reduction_factor)


def make_pruner(settings: PrunerSettings) -> AsynchronousHalving | None:
    """Return the pruner of a search file; None if no trial is to be pruned."""
    if settings.kind == "none":
        return None
    return AsynchronousHalving(settings.min_epochs, settings.reduction_factor)
