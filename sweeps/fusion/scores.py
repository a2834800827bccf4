"""What a fused model scores: beside the best single trial, and beside the best there is."""

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


def part_scores(
    models: Mapping[str, Float[np.ndarray, "N 22"]], frames: PredictedFrames, part: str
) -> dict[str, dict[str, Any]]:
    """Scores of each model with intervals, and of fused minus best single: post-processed both, raw
    both. No difference where they predict different tasks.
    """
    sampled = {name: frames.sampled(outputs, part) for name, outputs in models.items()}
    found = {
        name: {**frames.scores(outputs, part), "interval": intervals(sampled[name])}
        for name, outputs in models.items()
    }
    same = predicted_tasks(models["fused"]) == predicted_tasks(models["best_single"])
    for ours, single in (("fused", "best_single"), ("fused_raw", "best_single_raw")):
        names = sampled[ours] if same else {}
        gains = {name: sampled[ours][name] - sampled[single][name] for name in names}
        found[f"{ours}_minus_{single}"] = differences(gains)
    return found


def differences(gains: Mapping[str, BootstrapScore]) -> dict[str, Any]:
    """Differences of scores by name, and under ``interval`` their intervals."""
    return {
        **{name: gain.score for name, gain in gains.items()},
        "interval": {name: gain.interval() for name, gain in gains.items()},
    }


def optimism(scores: Mapping[str, Any]) -> dict[str, float]:
    """Search optimism: how much more each model scores on ``select``, which it was chosen on, than
    on ``confirm``.
    """
    both = {name: (scores["select"][name], scores["confirm"][name]) for name in MODELS}
    return {
        name: seen["p_labelled"] - unseen["p_labelled"]
        for name, (seen, unseen) in both.items()
        if seen["p_labelled"] is not None and unseen["p_labelled"] is not None
    }


def ceiling(
    dataset: Dataset,
    frames: PredictedFrames,
    fused: Float[np.ndarray, "N 22"],
    parts: tuple[str, ...],
) -> dict[str, Any] | None:
    """Scores of the exact posterior in the same tasks, which only planted data have, and what share
    of its P the fused model reaches.
    """
    file = Path(dataset.address) / "ceiling.parquet"
    if "ceiling" not in dataset.info.get("extra", {}) or not file.exists():
        return None
    known = Predictions.load(file)
    rows = listed_rows(frames.listing, known)
    outputs = np.full((len(frames.listing.frame), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    outputs[rows] = known.outputs
    here = outputs[frames.rows]
    for task in TASKS.values():
        if task.name not in predicted_tasks(fused):
            here[:, task.outputs] = np.nan
    return {
        part: {**frames.scores(here, part), "reached": _share(fused, here, frames, part)}
        for part in parts
    }


def _share(
    outputs: Float[np.ndarray, "N 22"],
    best: Float[np.ndarray, "N 22"],
    frames: PredictedFrames,
    part: str,
) -> dict[str, Any] | None:
    """One model's P over another's, with the interval over videos; None without labels."""
    whole, most = (frames.sampled(each, part).get("p_labelled") for each in (outputs, best))
    if whole is None or most is None or not most.score:
        return None
    share = whole.ratio(most)
    return {"share": share.score, "interval": share.interval()}
