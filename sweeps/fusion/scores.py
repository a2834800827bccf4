"""Scores of a fused model, compared with the best single trial and with the exact posterior.

The combined score P is the sum of the scores of the labelled tasks, in which valence and arousal
count as their mean.

Shapes: N predicted frames, 22 outputs (valence, arousal, 8 expressions, 12 action units).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mtl.dataset import Dataset
from mtl.evaluation.bootstrap import BootstrapScore, intervals
from mtl.predictions.table import Predictions
from mtl.tasks import OUTPUT_COLUMNS, TASKS
from sweeps.fusion.frames import PredictedFrames, listed_rows, predicted_tasks

MODELS = ("fused", "fused_raw", "best_single", "best_single_raw")
"""Names of the scored models: fused model and best single trial, post-processed and raw."""


def part_scores(
    models: Mapping[str, Float[np.ndarray, "N 22"]], frames: PredictedFrames, part: str
) -> dict[str, dict[str, Any]]:
    """Return the scores of the fused model and of the best single trial on one split.

    Args:
        models: Outputs (N, 22) for the N predicted frames, by model: ``fused``, ``best_single``,
            and both before post-processing: ``fused_raw``, ``best_single_raw``.
        frames: The predicted frames.
        part: Split to score: ``select`` (validation videos on which choices are made) or
            ``confirm`` (validation videos held back).

    Returns:
        By model, a dict of all scores by name, with bootstrap intervals by name under ``interval``.
        Under ``fused_minus_best_single`` and ``fused_raw_minus_best_single_raw``, a dict of the
        first model's scores minus the second's in the same form, without any score if the models
        predict different tasks.
    """
    bootstrapped = {
        name: frames.bootstrap_scores(outputs, part) for name, outputs in models.items()
    }
    scores = {
        name: {**frames.scores(outputs, part), "interval": intervals(bootstrapped[name])}
        for name, outputs in models.items()
    }
    same = predicted_tasks(models["fused"]) == predicted_tasks(models["best_single"])
    for fused, single in (("fused", "best_single"), ("fused_raw", "best_single_raw")):
        names = bootstrapped[fused] if same else {}
        gains = {name: bootstrapped[fused][name] - bootstrapped[single][name] for name in names}
        scores[f"{fused}_minus_{single}"] = differences(gains)
    return scores


def differences(gains: Mapping[str, BootstrapScore]) -> dict[str, Any]:
    """Return differences of scores as plain numbers, to be written as JSON.

    Args:
        gains: Difference of two models' scores, with its bootstrap, by the score's name.

    Returns:
        Each difference by the score's name, and under ``interval`` a dict of the differences'
        bootstrap intervals by the score's name.
    """
    return {
        **{name: gain.score for name, gain in gains.items()},
        "interval": {name: gain.interval() for name, gain in gains.items()},
    }


def optimism(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the search optimism of the fused model and of the best single trial.

    The search optimism is the combined score P (sum of the tasks' scores) on ``select``, the videos
    on which the model was chosen, minus P on ``confirm``, the validation videos held back.

    Args:
        scores: By split (``select`` and ``confirm``), then by model (such as ``fused``), the scores
            by name.

    Returns:
        The search optimism by model, for models that have P on both splits.
    """
    both = {name: (scores["select"][name], scores["confirm"][name]) for name in MODELS}
    return {
        name: select["p_labelled"] - confirm["p_labelled"]
        for name, (select, confirm) in both.items()
        if select["p_labelled"] is not None and confirm["p_labelled"] is not None
    }


def ceiling(
    dataset: Dataset,
    frames: PredictedFrames,
    fused: Float[np.ndarray, "N 22"],
    parts: tuple[str, ...],
) -> dict[str, Any] | None:
    """Return the best possible scores on synthetic data, those of the exact posterior.

    Only tasks that the fused model predicts are scored.

    Args:
        dataset: The sweep's dataset.
        frames: Frames that the trials predict.
        fused: Outputs (N, 22) of the fused model for the N predicted frames.
        parts: Splits to score: ``select`` (validation videos on which choices are made), and
            ``confirm`` (validation videos held back) unless it is empty.

    Returns:
        By split, a dict of all scores of the exact posterior by name. Its key ``reached`` holds
        ``share``, the fused model's combined score P (sum of the tasks' scores) divided by P of the
        exact posterior, and the share's bootstrap ``interval``. None for data that are not
        synthetic.
    """
    file = Path(dataset.address) / "ceiling.parquet"
    if "ceiling" not in dataset.info.get("extra", {}) or not file.exists():
        return None
    posterior = Predictions.load(file)
    listed = np.full((len(frames.listing.frame), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    listed[listed_rows(frames.listing, posterior)] = posterior.outputs
    exact = listed[frames.rows]
    for task in TASKS.values():
        if task.name not in predicted_tasks(fused):
            exact[:, task.outputs] = np.nan
    return {
        part: {**frames.scores(exact, part), "reached": _share(fused, exact, frames, part)}
        for part in parts
    }


def _share(
    outputs: Float[np.ndarray, "N 22"],
    exact: Float[np.ndarray, "N 22"],
    frames: PredictedFrames,
    part: str,
) -> dict[str, Any] | None:
    """Return a model's combined score P (sum of the tasks' scores) divided by the best possible P.

    Args:
        outputs: Outputs (N, 22) of the model for the N predicted frames.
        exact: Outputs (N, 22) of the exact posterior for the same frames.
        frames: The predicted frames.
        part: Validation videos to score: ``select`` (used for choices) or ``confirm`` (held back).

    Returns:
        ``share`` (the ratio) and its bootstrap ``interval``; None if the split has no labels, or if
        the exact posterior's P is 0.
    """
    numerator, denominator = (
        frames.bootstrap_scores(each, part).get("p_labelled") for each in (outputs, exact)
    )
    if numerator is None or denominator is None or not denominator.score:
        return None
    share = numerator.ratio(denominator)
    return {"share": share.score, "interval": share.interval()}
