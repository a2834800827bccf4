"""The fused trials trained anew on folds: out-of-fold predictions, and the test frames' mean.

Each member's weight and the post-processing are the sweep's. Every labelled frame is predicted by
models that have not seen its video's labels, nor chosen their epoch on it. (Features are z-scored
by the dataset's statistics, in which training videos have a part also where they are held out.) But
the members were chosen on ``select``: its videos flatter the score over all frames, and it is given
without them too.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mtl.ensemble.selection import fuse
from mtl.evaluation.bootstrap import bootstrap, intervals
from mtl.evaluation.metrics import scores
from mtl.predictions.postprocess import Postprocessing, Smoothing
from mtl.predictions.submission import write_submission
from mtl.predictions.table import Predictions, decide
from mtl.tasks import OUTPUT_COLUMNS, TASKS
from mtl.whole_files import write_json
from sweeps.fusion.frames import listed_rows
from sweeps.fusion.scores import differences
from sweeps.fusion.sweep import image_names
from sweeps.planning.plan import Plan
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study import Refit

PARTS = {
    "all": ("train", "select", "confirm"),
    "without_select": ("train", "confirm"),
    "confirm": ("confirm",),
}
"""The sweep's parts whose out-of-fold predictions are scored together."""


def score_refit(folder: Path, plan: Plan, fused: Mapping[str, Any]) -> dict[str, Any] | None:
    """Join what the folds predict; write ``refit/``.

    Args:
        folder: The sweep's.
        plan: Its plan, with the folds.
        fused: What ``scores.json`` holds.

    Returns:
        What ``refit/scores.json`` holds; None as long as a fold of a member is missing.
    """
    members: Mapping[str, Mapping[str, float]] = fused["members"]
    folds = len(plan.folds)
    part = _of_frames(plan, plan.parts)
    test = part == "test"
    joined = np.full((len(part), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    joined[test] = 0
    for fold, parts in enumerate(plan.folds):
        outputs = _fold_outputs(folder, plan, members, fold)
        if outputs is None:
            # What was scored of other members says nothing of these.
            shutil.rmtree(folder / "refit", ignore_errors=True)
            return None
        held_out = _of_frames(plan, parts) == "confirm"
        joined[held_out] = outputs[held_out]
        joined[test] += outputs[test] / folds
    done = _postprocessed(plan, joined, fused["postprocessing"])
    content = {
        "folds": folds,
        "submission": bool(test.any()),
        "members": members,
        "out_of_fold": {
            name: {
                "videos": len(np.unique(plan.listing.video[np.isin(part, parts)])),
                "refit": _scores(plan, done, np.isin(part, parts)),
                "refit_raw": _scores(plan, joined, np.isin(part, parts)),
            }
            for name, parts in PARTS.items()
            if np.isin(part, parts).any()
        },
    }
    if (part == "confirm").any():
        content["refit_minus_fused"] = _minus_fused(folder, plan, done, part == "confirm")
    _write(folder / "refit", plan, done, test)
    write_json(folder / "refit" / "scores.json", content)
    return content


def _fold_outputs(
    folder: Path, plan: Plan, members: Mapping[str, Mapping[str, float]], fold: int
) -> Float[np.ndarray, "N 22"] | None:
    """The fused raw outputs of all listed frames that the models of a fold predict."""
    stored: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for signature in sorted({s for weights in members.values() for s in weights}):
        trial = folder / "trials" / Refit(signature, fold, len(plan.folds)).signature
        if not TrialFolder(trial).ended or (trial / "error.txt").exists():
            return None
        predictions = Predictions.load(trial / "predictions.parquet")
        rows = listed_rows(plan.listing, predictions)
        order = np.argsort(rows)
        stored[signature] = rows[order], predictions.outputs[order]
    outputs = np.full((len(plan.listing.frame), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    for name, weights in members.items():
        where, (rows, _) = TASKS[name].outputs, stored[next(iter(weights))]
        own = np.stack([stored[signature][1][:, where] for signature in weights])
        outputs[rows, where] = fuse(own, np.array(list(weights.values())))
    return outputs


def _of_frames(plan: Plan, parts: Mapping[str, str]) -> np.ndarray:
    """The part of each listed frame."""
    of_video = np.array([parts[name] for name in plan.listing.names])
    return np.asarray(of_video[plan.listing.video])


def _postprocessed(
    plan: Plan, outputs: Float[np.ndarray, "N 22"], chosen: Mapping[str, Any]
) -> Float[np.ndarray, "N 22"]:
    smoothing = {task: Smoothing(**own) for task, own in chosen["smoothing"].items()}
    done = Postprocessing(smoothing, tuple(chosen["bias"]), tuple(chosen["thresholds"]))
    return done(outputs, plan.listing.video, plan.listing.frame)


def _scores(plan: Plan, outputs: Float[np.ndarray, "N 22"], at: np.ndarray) -> dict[str, Any]:
    own = outputs[at], plan.listing.values[at], plan.listing.mask[at]
    return {**scores(*own), "interval": intervals(bootstrap(*own, plan.listing.video[at]))}


def _minus_fused(
    folder: Path, plan: Plan, outputs: Float[np.ndarray, "N 22"], at: np.ndarray
) -> dict[str, Any]:
    """On ``confirm``: models of fewer videos, one fold each, against the sweep's fused model."""
    stored = Predictions.load(folder / "fusion" / "predictions.parquet")
    fused = np.full_like(outputs, np.nan)
    fused[listed_rows(plan.listing, stored)] = stored.outputs
    known = plan.listing.values[at], plan.listing.mask[at], plan.listing.video[at]
    ours, theirs = bootstrap(outputs[at], *known), bootstrap(fused[at], *known)
    return differences({name: ours[name] - theirs[name] for name in ours})


def _write(folder: Path, plan: Plan, outputs: Float[np.ndarray, "N 22"], test: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    listing = plan.listing
    predictions = Predictions(listing.video, listing.frame, listing.names, outputs)
    predictions.save(folder / "predictions.parquet")
    if test.any():
        rows = np.flatnonzero(test)
        images = image_names(plan.dataset, listing, rows)
        write_submission(folder / "submission.txt", images, *decide(outputs[rows]))
