"""Pruner by asynchronous successive halving, which depends only on values in the journal."""

import math
from bisect import bisect_right, insort
from collections import defaultdict
from typing import Protocol


def rungs(min_epochs: int, reduction_factor: int, epochs: int) -> tuple[int, ...]:
    """Return the rungs (epochs at which a trial may be pruned) of a trial, in ascending order.

    Rung k, from 0, is min_epochs * reduction_factor**k.

    Args:
        min_epochs: First rung.
        reduction_factor: Ratio of each rung to the previous rung.
        epochs: The trial's number of epochs; no later rung is returned.
    """
    found = []
    rung = min_epochs
    while rung <= epochs:
        found.append(rung)
        rung *= reduction_factor
    return tuple(found)


class PrunerSettings(Protocol):
    """Settings of the pruner in the search file."""

    @property
    def kind(self) -> str:
        """Name of the pruning method: `asha` (successive halving) or `none`."""

    @property
    def min_epochs(self) -> int:
        """First epoch at which a trial may be pruned."""

    @property
    def reduction_factor(self) -> int:
        """Ratio of each rung (epoch at which trials may be pruned) to the previous rung.

        At each rung the best 1 / reduction_factor of the trials continue.
        """


class AsynchronousHalving:
    """Pruner that lets the best 1 / reduction_factor of a study's trials continue at each rung.

    A rung is an epoch at which a trial may be pruned. The method is that of Li et al. 2020, "A
    System for Massively Parallel Hyperparameter Tuning", without promotion of stopped trials;
    higher values are better. If every epoch is reported, the decisions equal those of Optuna's
    `SuccessiveHalvingPruner(min_epochs, reduction_factor)`. Optuna's pruner stores in the trial
    that the rung is completed, then decides, and returns "continue" if it is called again for the
    same rung. A trial whose program is killed in between is then not pruned. This class stores only
    objectives, and a second call returns the same decision as the first. The objectives are kept
    sorted, because scanning all trials at each rung, as Optuna does, doubled the driver's time for
    a trial within 4,000 trials.

    Args:
        min_epochs: First rung.
        reduction_factor: Ratio of each rung to the previous rung.

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
        """Add a trial's value after an epoch, for the comparison of trials; NaN is ignored.

        Args:
            study: Name of the trial's study; only trials of one study are compared.
            epoch: The epoch, from 1.
            value: The trial's objective after this epoch; higher is better.
        """
        if self.is_rung(epoch) and not math.isnan(value):
            insort(self._reached[study, epoch], value)

    def stops(self, study: str, epoch: int, value: float) -> bool:
        """Return True if a trial is to be pruned after this epoch.

        Args:
            study: Name of the trial's study.
            epoch: The epoch, from 1; the result is False unless it is a rung (epoch of possible
                pruning).
            value: The trial's objective after this epoch, given to `add` before. With NaN the trial
                is pruned at any rung.
        """
        if not self.is_rung(epoch):
            return False
        reached = self._reached[study, epoch]
        better = len(reached) - bisect_right(reached, value)
        return math.isnan(value) or better >= max(1, len(reached) // self._reduction_factor)


def make_pruner(settings: PrunerSettings) -> AsynchronousHalving | None:
    """Return the pruner for the search file's settings; None if they switch pruning off."""
    if settings.kind == "none":
        return None
    return AsynchronousHalving(settings.min_epochs, settings.reduction_factor)
