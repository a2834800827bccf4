"""Estimated time of a sweep, from the times of its configs' batches, and a bound on it."""

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from sweeps.planning.plan import Plan, SizedConfig
from sweeps.planning.time_estimate import TimedConfig, Work, batch_seconds, work_of
from sweeps.search_file import BudgetSection
from sweeps.study.pruner import AsynchronousHalving, rungs

LONG_SECONDS = 4 * 3600
"""Time of a sweep in seconds above which the user of a terminal is asked."""
SLOW_BATCH_SECONDS = 0.1
"""Seconds of a training batch beside its arithmetic, several times what the demo takes."""
SLOW_OPERATIONS = 1e9
"""Floating-point operations that any worker makes in a second; a CPU core makes over ten times."""
SIMULATED_TRIALS = 10_000
"""Number of trials on which the pruner is run, to learn how many epochs it leaves."""


@dataclass(frozen=True)
class SweepTime:
    """Estimated time of a sweep's training.

    Attributes:
        expected_seconds: Seconds if trials are pruned as often as trials of equal quality.
        most_seconds: Seconds if no trial is pruned.
        limit: Key of the search file that limits these seconds; empty without one.
    """

    expected_seconds: float
    most_seconds: float
    limit: str = ""


def estimate(plan: Plan, timed: Sequence[TimedConfig], slots: int) -> SweepTime | None:
    """Return the estimated time of a sweep within its budget, refits on folds left out.

    Args:
        plan: The search file, checked against the dataset.
        timed: Configs with the times of their batches.
        slots: Number of trials that train at the same time.

    Returns:
        The times, or None if no config could be timed.
    """
    known = [each for each in timed if each.time is not None]
    if not known:
        return None
    studies = len(plan.space.comparisons())
    search = plan.file.search
    first = min(search.trials, sum(map(len, plan.first.parameters)))
    repeats = plan.file.compare.seeds * studies

    def mean(configs: Sequence[SizedConfig], pruned: bool) -> float:
        if not configs:
            return 0.0
        return statistics.fmean(
            _trial_seconds(plan, sized, known, search.trials // studies if pruned else 0)
            for sized in configs
        )

    def total(pruned: bool) -> float:
        seconds = first * mean(plan.given, pruned)
        seconds += (search.trials - first) * mean(plan.sampled, pruned)
        return (seconds + repeats * mean(plan.sampled, False)) / slots

    expected, most = total(True), total(False)
    end, key = budget_seconds(plan.file.budget)
    return SweepTime(min(expected, end), min(most, end), key if end < most else "")


def budget_seconds(budget: BudgetSection) -> tuple[float, str]:
    """Return the seconds after which the budget ends a new sweep.

    Args:
        budget: Section ``budget`` of the search file.

    Returns:
        Two values: the seconds, infinite without a limit; and the key of the limit.
    """
    limits = [(math.inf, "")]
    if budget.minutes is not None:
        limits.append((60 * budget.minutes, "budget.minutes"))
    if budget.until is not None:
        left = (budget.until - datetime.now(UTC)).total_seconds()
        limits.append((max(0.0, left), "budget.until"))
    return min(limits)


def longest_seconds(plan: Plan, slots: int) -> float:
    """Return a time that a sweep is not expected to exceed even on a slow machine.

    A frame takes 6 operations for each parameter in training (forward and backward pass), and 2 in
    a prediction. Nothing is pruned, and the sweep's budget ends it.

    Args:
        plan: The search file, checked against the dataset.
        slots: Number of trials that train at the same time.
    """

    def trial(sized: SizedConfig) -> float:
        config, work = sized.config, work_of(plan, sized.config)
        window_seconds = sized.parameters * config.sequence.window_frames / SLOW_OPERATIONS
        training = SLOW_BATCH_SECONDS + 6 * window_seconds * work.training_windows
        prediction = SLOW_BATCH_SECONDS / 2 + 2 * window_seconds * work.prediction_windows
        return _seconds_of(plan, work, config.training.epochs, training, prediction)

    repeats = plan.file.compare.seeds * len(plan.space.comparisons())
    longest = max(map(trial, (*plan.sampled, *plan.given)))
    seconds = longest * (plan.file.search.trials + repeats) / slots
    return min(seconds, budget_seconds(plan.file.budget)[0])


def _trial_seconds(
    plan: Plan, sized: SizedConfig, known: Sequence[TimedConfig], pruned_among: int
) -> float:
    """Return the mean seconds of a trial.

    Args:
        plan: The search file, checked against the dataset.
        sized: The trial's config.
        known: Configs with the times of their batches.
        pruned_among: Number of trials of its study, of which the worse are pruned; 0 if none is.
    """
    config, work, pruner = sized.config, work_of(plan, sized.config), plan.file.pruner
    epochs: float = config.training.epochs
    if pruned_among and pruner.kind == "asha":
        epochs = mean_epochs(
            config.training.epochs, pruner.min_epochs, pruner.reduction_factor, pruned_among
        )
    return _seconds_of(plan, work, epochs, *batch_seconds(sized, work, known))


def _seconds_of(plan: Plan, work: Work, epochs: float, training: float, prediction: float) -> float:
    """Return the seconds of a trial from those of a training batch and of a prediction batch."""
    models = min(len(plan.tasks), epochs)
    return (
        epochs * (work.training_steps * training + work.select_steps * prediction)
        + models * work.end_steps * prediction
    )


@functools.cache
def mean_epochs(epochs: int, min_epochs: int, reduction_factor: int, trials: int) -> float:
    """Return the mean epochs of a study's trials if they are pruned by successive halving.

    The pruner is run on trials of random qualities, which do not change from epoch to epoch.

    Args:
        epochs: Epochs of a trial that is not pruned.
        min_epochs: First epoch after which a trial may be pruned.
        reduction_factor: At each rung, about 1 / this factor of the trials go on.
        trials: Number of trials of the study; of more than 10,000 the mean is that of 10,000.
    """
    trials = min(trials, SIMULATED_TRIALS)
    random = np.random.default_rng(0)
    trained: list[int] = []
    while len(trained) < SIMULATED_TRIALS:
        pruner = AsynchronousHalving(min_epochs, reduction_factor)
        for quality in random.random(trials).tolist():
            end = epochs
            for epoch in rungs(min_epochs, reduction_factor, epochs):
                pruner.add("", epoch, quality)
                if pruner.stops("", epoch, quality):
                    end = epoch
                    break
            trained.append(end)
    return statistics.fmean(trained)
