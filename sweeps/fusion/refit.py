"""Scores and predictions of refits, which are fused trials trained again on folds.

Each fused trial (member) is trained once per fold, with the videos of this fold held out. A
labelled frame is predicted by the models that held its video out, so neither their weights nor
their epochs depend on its label. Test frames get the mean over all folds.

The members, their weights and the post-processing are those of the sweep's fused model. They were
chosen on ``select`` (validation videos on which choices are made), which raises the scores there,
so scores are also given without ``select``. Features are z-scored by statistics of all training
videos, the held-out ones included.
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
from sweeps.fusion.fused import MemberWeights
from sweeps.fusion.scores import differences
from sweeps.fusion.sweep import image_names
from sweeps.planning.plan import Plan
from sweeps.storage.run_folder import FUSED_PREDICTIONS, REFIT, SUBMISSION
from sweeps.storage.trial_folder import PREDICTIONS, SCORES, TrialFolder
from sweeps.study import Refit

SCORED_PARTS = {
    "all": ("train", "select", "confirm"),
    "without_select": ("train", "confirm"),
    "confirm": ("confirm",),
}
"""Splits of the videos that are scored together, by the name of the group."""


def score_refit(folder: Path, plan: Plan, fused: Mapping[str, Any]) -> dict[str, Any] | None:
    """Score the fused trials that were trained again on folds, and write the folder ``refit/``.

    The predictions for the held-out videos of all folds are joined and scored together.

    Args:
        folder: The sweep's run folder.
        plan: The sweep's plan, which holds the folds.
        fused: Content of the run folder's ``scores.json``.

    Returns:
        Content of ``refit/scores.json``. ``folds``: number of folds. ``submission``: True if there
        are test frames. ``members``: the fused trials' weights. ``out_of_fold``: by group of splits
        (all, without_select, confirm), the number of ``videos``, and the scores after (``refit``)
        and before (``refit_raw``) post-processing. ``refit_minus_fused``: scores on ``confirm``
        minus those of the sweep's fused model. None if the training of any trial on any fold is
        missing.
    """
    members: MemberWeights = fused["members"]
    folds = len(plan.folds)
    part = _part_of_each_frame(plan, plan.parts)
    test = part == "test"
    joined = np.full((len(part), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    joined[test] = 0
    for fold, parts in enumerate(plan.folds):
        outputs = _fold_outputs(folder, plan, members, fold)
        if outputs is None:
            # An earlier refit/ may hold the scores of another fused model.
            shutil.rmtree(folder / REFIT, ignore_errors=True)
            return None
        held_out = _part_of_each_frame(plan, parts) == "confirm"
        joined[held_out] = outputs[held_out]
        joined[test] += outputs[test] / folds
    processed = _postprocessed(plan, joined, fused["postprocessing"])
    content = {
        "folds": folds,
        "submission": bool(test.any()),
        "members": members,
        "out_of_fold": {
            name: {
                "videos": len(np.unique(plan.listing.video[np.isin(part, parts)])),
                "refit": _scores(plan, processed, np.isin(part, parts)),
                "refit_raw": _scores(plan, joined, np.isin(part, parts)),
            }
            for name, parts in SCORED_PARTS.items()
            if np.isin(part, parts).any()
        },
    }
    if (part == "confirm").any():
        content["refit_minus_fused"] = _minus_fused(folder, plan, processed, part == "confirm")
    _write(folder / REFIT, plan, processed, test)
    write_json(folder / REFIT / SCORES, content)
    return content


def _fold_outputs(
    folder: Path, plan: Plan, members: MemberWeights, fold: int
) -> Float[np.ndarray, "N 22"] | None:
    """Return the fused outputs of the trials that were trained again with one fold held out.

    Args:
        folder: The sweep's run folder.
        plan: The sweep's plan.
        members: Weight of each fused trial, by task and by signature (hash of its config).
        fold: Index of the held-out fold.

    Returns:
        Weighted mean (N, 22) of the outputs for all N listed frames, before post-processing; NaN
        for frames that are not predicted. None if the training of a trial is missing or failed.
    """
    stored: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for signature in sorted({s for weights in members.values() for s in weights}):
        refit = Refit(signature, fold, len(plan.folds))
        trial = TrialFolder.in_run(folder, refit.signature)
        if not trial.has_ended or trial.has_failed:
            return None
        predictions = trial.predictions()
        rows = listed_rows(plan.listing, predictions)
        order = np.argsort(rows)
        stored[signature] = rows[order], predictions.outputs[order]
    outputs = np.full((len(plan.listing.frame), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    for name, weights in members.items():
        columns, (rows, _) = TASKS[name].outputs, stored[next(iter(weights))]
        of_members = np.stack([stored[signature][1][:, columns] for signature in weights])
        outputs[rows, columns] = fuse(of_members, np.array(list(weights.values())))
    return outputs


def _part_of_each_frame(plan: Plan, parts: Mapping[str, str]) -> np.ndarray:
    """Return the name of the split (train, select, confirm or test) of each listed frame.

    Args:
        plan: The sweep's plan, which holds the listed frames.
        parts: Name of the split of each video, by the video's name.
    """
    of_video = np.array([parts[name] for name in plan.listing.names])
    return np.asarray(of_video[plan.listing.video])


def _postprocessed(
    plan: Plan, outputs: Float[np.ndarray, "N 22"], chosen: Mapping[str, Any]
) -> Float[np.ndarray, "N 22"]:
    """Apply the post-processing of the sweep's fused model to outputs for all listed frames.

    Args:
        plan: The sweep's plan.
        outputs: Outputs (N, 22) for the N listed frames.
        chosen: Section ``postprocessing`` of the run folder's ``scores.json``.
    """
    smoothing = {task: Smoothing(**settings) for task, settings in chosen["smoothing"].items()}
    process = Postprocessing(smoothing, tuple(chosen["bias"]), tuple(chosen["thresholds"]))
    return process(outputs, plan.listing.video, plan.listing.frame)


def _scores(plan: Plan, outputs: Float[np.ndarray, "N 22"], at: np.ndarray) -> dict[str, Any]:
    """Return scores by name on some listed frames; under ``interval`` bootstrap intervals by name.

    Args:
        plan: The sweep's plan.
        outputs: Outputs (N, 22) for the N listed frames.
        at: True for the listed frames to score.
    """
    scored = outputs[at], plan.listing.values[at], plan.listing.mask[at]
    return {**scores(*scored), "interval": intervals(bootstrap(*scored, plan.listing.video[at]))}


def _minus_fused(
    folder: Path, plan: Plan, outputs: Float[np.ndarray, "N 22"], at: np.ndarray
) -> dict[str, Any]:
    """Return the scores of the refits minus the scores of the sweep's fused model.

    Refits (fused trials trained again with one fold held out) are at a disadvantage, because they
    are trained on fewer videos, and each frame is predicted by the models of one fold only.

    Args:
        folder: The sweep's run folder, which holds the fused model's predictions.
        plan: The sweep's plan.
        outputs: Outputs (N, 22) of the refits for the N listed frames.
        at: True for the listed frames to score.

    Returns:
        Differences by name of the score; under ``interval`` their bootstrap intervals by name.
    """
    stored = Predictions.load(folder / FUSED_PREDICTIONS)
    fused = np.full_like(outputs, np.nan)
    fused[listed_rows(plan.listing, stored)] = stored.outputs
    known = plan.listing.values[at], plan.listing.mask[at], plan.listing.video[at]
    refit_scores, fused_scores = bootstrap(outputs[at], *known), bootstrap(fused[at], *known)
    return differences({name: refit_scores[name] - fused_scores[name] for name in refit_scores})


def _write(folder: Path, plan: Plan, outputs: Float[np.ndarray, "N 22"], test: np.ndarray) -> None:
    """Write the predictions for all listed frames, and ``submission.txt`` for the test frames.

    Args:
        folder: Folder of the results, ``refit/`` in the run folder.
        plan: The sweep's plan.
        outputs: Outputs (N, 22) for the N listed frames.
        test: True for test frames; without any, no submission is written.
    """
    folder.mkdir(exist_ok=True)
    listing = plan.listing
    predictions = Predictions(listing.video, listing.frame, listing.names, outputs)
    predictions.save(folder / PREDICTIONS)
    if test.any():
        rows = np.flatnonzero(test)
        images = image_names(plan.dataset, listing, rows)
        write_submission(folder / SUBMISSION, images, *decide(outputs[rows]))
