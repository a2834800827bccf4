"""Disk space that a sweep needs, from which the limit ``budget.disk_gb: auto`` follows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtl.config import TrialConfig
from mtl.errors import InputError
from mtl.tasks import OUTPUT_COLUMNS
from sweeps.planning.plan import Plan, count_parameters
from sweeps.storage.disk_space import free_bytes, used_bytes
from sweeps.storage.ranking import BEST_TRIALS_PER_TASK
from sweeps.storage.trial_folder import TRIALS, is_refit

BYTES_PER_FRAME = 4 * (len(OUTPUT_COLUMNS) + 2)
"""Bytes of one frame in a file of predictions: its outputs, video and number, not compressed."""
BYTES_PER_TRIAL = 100_000
"""Most bytes of a trial's config, progress and scores together."""
CHECKPOINT_PARAMETERS = 3
"""Numbers in a checkpoint for each parameter: the parameter and Adam's two moments."""
MARGIN = 1.25
"""Factor between the computed need and the limit."""
LEAST_LIMIT_BYTES = 10**9
"""Smallest limit: below a gigabyte no sweep is worth stopping."""


@dataclass(frozen=True)
class DiskNeed:
    """Most disk space that a sweep needs.

    Attributes:
        trials: Number of trials that keep their predictions.
        predictions_bytes: Predictions and small files of all trials.
        kept: Largest number of trials that keep their weights.
        weights_bytes: Weights of all these trials, if each is of the largest model and each of its
            tasks has another best epoch.
        running_bytes: Checkpoint and weights of one trial of the largest model while it trains.
    """

    trials: int
    predictions_bytes: int
    kept: int
    weights_bytes: int
    running_bytes: int

    @property
    def ended_bytes(self) -> int:
        """Most bytes of all trials that have ended."""
        return self.predictions_bytes + self.weights_bytes

    def limit_gb(self, disk_gb: float | str | None) -> float:
        """Return the limit of the size of all trials that have ended, in GB.

        Args:
            disk_gb: ``budget.disk_gb`` of the search file; None for no limit.
        """
        if disk_gb == "auto":
            return max(MARGIN * self.ended_bytes, LEAST_LIMIT_BYTES) / 1e9
        return math.inf if disk_gb is None else float(disk_gb)


def disk_need(plan: Plan, ranked: int = 0, refits: int = 0, adopted: int = 0) -> DiskNeed:
    """Return the most disk space that a sweep needs.

    Args:
        plan: The search file, checked against the dataset.
        ranked: Largest number of trials that compete for kept weights, if it is larger than the
            plan's: the run folder may hold trials of earlier starts and of another sweep.
        refits: Number of trials that the run folder holds on folds.
        adopted: Largest number of trials that will be taken over from another sweep.
    """
    file = plan.file
    tasks = len(plan.tasks)
    planned = file.search.trials + adopted + file.compare.seeds * len(plan.space.comparisons())
    ranked = max(ranked, planned)
    kept = min(ranked, BEST_TRIALS_PER_TASK * tasks)
    refits += len(plan.folds) * min(kept, file.fusion.steps * tasks)
    one = _prediction_bytes(plan, plan.parts)
    on_fold = max((_prediction_bytes(plan, parts) for parts in plan.folds), default=one)
    configs = [sized.config for sized in (*plan.sampled, *plan.given)]
    model = plan.parameters[1] * max(_bytes_per_parameter(config) for config in configs)
    weights = model * min(tasks, plan.epochs)
    return DiskNeed(
        trials=ranked + refits,
        predictions_bytes=ranked * one + refits * on_fold,
        kept=kept,
        weights_bytes=kept * weights,
        running_bytes=_training_bytes(model, tasks, plan.epochs),
    )


def trial_bytes(plan: Plan, config: TrialConfig, fold: int | None) -> int:
    """Return the largest size of one trial's folder while it trains and predicts, in bytes.

    Args:
        plan: The search file, checked against the dataset.
        config: The trial's config.
        fold: Index of the held-out fold; None for a trial that is not trained on folds.
    """
    try:
        parameters = count_parameters(config, plan.dataset, plan.tasks)
    except InputError:  # the trial will fail before it writes anything large
        parameters = 0
    model = parameters * _bytes_per_parameter(config)
    training = _training_bytes(model, len({*config.tasks} & {*plan.tasks}), config.training.epochs)
    return training + _prediction_bytes(plan, plan.parts if fold is None else plan.folds[fold])


def _bytes_per_parameter(config: TrialConfig) -> int:
    return 8 if config.training.precision == "float64" else 4


def _training_bytes(model: int, tasks: int, epochs: int) -> int:
    """Return the most bytes of a trial's checkpoints and weights.

    New ones are complete before old ones are removed, so there may be two checkpoints, and weights
    of one more epoch than there are tasks.

    Args:
        model: Bytes of the model's parameters.
        tasks: Number of tasks; each may have another best epoch.
        epochs: Number of epochs.
    """
    return model * (2 * CHECKPOINT_PARAMETERS + min(tasks + 1, epochs))


def _prediction_bytes(plan: Plan, parts: Mapping[str, str]) -> int:
    """Return the most bytes of a trial's predictions and small files.

    Args:
        plan: The search file, checked against the dataset.
        parts: Split of each video by the video's name; all but ``train`` are predicted.
    """
    predicted = np.array([parts[name] != "train" for name in plan.listing.names])
    return BYTES_PER_FRAME * int(predicted[plan.listing.video].sum()) + BYTES_PER_TRIAL


def planned_need(plan: Plan, run_folder: Path, adopted: int = 0) -> DiskNeed:
    """Return the most disk space that a sweep needs whose journal is not read, as in a dry run.

    Args:
        plan: The search file, checked against the dataset.
        run_folder: The sweep's run folder, which need not exist.
        adopted: Largest number of trials that will be taken over from another sweep.
    """
    held = [trial.name for trial in (run_folder / TRIALS).glob("*")]
    refits = sum(map(is_refit, held))
    return disk_need(plan, len(held) - refits, refits, adopted)


def describe_disk(plan: Plan, running: int, run_folder: Path, need: DiskNeed) -> str:
    """Return the lines of a sweep's description that tell its need of disk space.

    Args:
        plan: The search file, checked against the dataset.
        running: Number of trials that train at the same time.
        run_folder: The sweep's run folder, which need not exist.
        need: Most disk space that the sweep needs.
    """
    total = need.ended_bytes + running * need.running_bytes
    there = used_bytes(run_folder) + free_bytes(run_folder)
    disk_gb = plan.file.budget.disk_gb
    shown = f"{disk_gb:.4g}" if isinstance(disk_gb, float) else disk_gb or "null"
    key = f"budget.disk_gb = {shown}"
    limit = 1e9 * need.limit_gb(disk_gb)
    lines = [
        f"  disk      {gigabytes(total)} at most: predictions of {need.trials} trials, weights of "
        f"{need.kept}, checkpoints of {running}; {gigabytes(there)} for them, of which ended "
        f"trials may fill {gigabytes(min(limit, there))} ({key})"
    ]
    short = (
        "weights of trials that others beat in every task are removed when space is short, "
        "predictions never, and the sweep ends if that is not enough"
    )
    if need.ended_bytes > limit:
        lines.append(
            f"  note      the ended trials may need {gigabytes(need.ended_bytes)} of disk, more "
            f"than {key}: {short}; set budget.disk_gb=auto to keep all"
        )
    if total > there:
        lines.append(
            f"  note      {gigabytes(total)} of disk may be needed, but there are "
            f"{gigabytes(there)}: {short}; free {gigabytes(total - there)} to keep all"
        )
    return "\n".join(lines)


def gigabytes(size_bytes: float) -> str:
    """Return a size as text with at most two digits, such as ``2.1 GB`` or ``31 GB``."""
    gb = size_bytes / 1e9
    return f"{gb:.0f} GB" if gb >= 9.95 else f"{gb:.2g} GB" if gb >= 0.01 else "less than 0.01 GB"
