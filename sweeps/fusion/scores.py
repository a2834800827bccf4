"""Scores of a fused model, compared with the best single trial and with the exact posterior."""

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
"""Scored models: the fused model and the best single trial, each post-processed and raw."""


def part_scores(
    models: Mapping[str, Float[np.ndarray, "N 22"]], frames: PredictedFrames, part: str
) -> dict[str, dict[str, Any]]:
    """Return the scores of each model in one part and the gains of the fused model.

    Args:
        models: Outputs of each of ``MODELS`` for all predicted frames.
        frames: The predicted frames.
        part: Name of the part.

    Returns:
        By model: all scores, and their intervals under ``interval``. Under
        ``fused_minus_best_single`` and ``fused_raw_minus_best_single_raw``: the differences of the
        scores with intervals, which are empty if the two models predict different tasks.
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
    """Return differences of scores by name, and under ``interval`` their intervals by name."""
    return {
        **{name: gain.score for name, gain in gains.items()},
        "interval": {name: gain.interval() for name, gain in gains.items()},
    }


def optimism(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the search optimism of each model.

    The search optimism is the combined score P on ``select``, on which the model was chosen, minus
    P on ``confirm``.

    Args:
        scores: Result of ``part_scores`` for ``select`` and for ``confirm``.
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
    """Return the scores of the exact posterior in the tasks that the fused model predicts.

    Args:
        dataset: The sweep's dataset.
        frames: The predicted frames.
        fused: Outputs of the fused model.
        parts: Names of the parts to score.

    Returns:
        By part: all scores of the exact posterior, and under ``reached`` the fused model's share of
        the exact posterior's P. None for data that are not planted and have no exact posterior.
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
    """Return the ratio of two models' combined scores in one part; None without labels."""
    numerator, denominator = (
        frames.bootstrap_scores(each, part).get("p_labelled") for each in (outputs, exact)
    )
    if numerator is None or denominator is None or not denominator.score:
        return None
    share = numerator.ratio(denominator)
    return {"share": share.score, "interval": share.interval()}
