"""Alternatives to a fused model, its cost, and the contribution of each member.

All scores are those of raw outputs, before post-processing. Nothing is chosen on ``confirm``. P is
the sum of the scores of the labelled tasks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import safe_open

from mtl.ensemble.selection import RULES, error_correlation, forward_order, fuse
from mtl.evaluation.bootstrap import BOUNDS, BootstrapScore
from mtl.tasks import OUTPUT_COLUMNS, TASKS, Task
from sweeps.fusion.candidates import Candidates
from sweeps.fusion.frames import PredictedFrames, predicted_tasks
from sweeps.fusion.fused import MemberWeights, choose_members, mean_outputs, nonzero_weights
from sweeps.fusion.scores import differences
from sweeps.search_file import FusionSection
from sweeps.storage.trial_folder import TrialFolder

SMALL_SIZES = (1, 2, 4, 8)
"""Numbers of trials of the small ensembles."""
SMALL_CANDIDATES = 25
"""Number of best trials from which the small ensembles are chosen."""


def rule_scores(
    candidates: Candidates,
    frames: PredictedFrames,
    settings: FusionSection,
    fused: Float[np.ndarray, "N 22"],
) -> dict[str, Any]:
    """Score each rule of choosing members, compared with the rule that the sweep uses.

    Args:
        candidates: Candidates of each task.
        frames: The predicted frames.
        settings: Section ``fusion`` of the search file.
        fused: Raw outputs of the sweep's fused model.

    Returns:
        By rule: the combined score P on ``select`` and ``confirm``, and the difference from the
        fused model.
    """
    scores = {}
    for rule in RULES:
        members = choose_members(candidates, frames, rule, settings.steps)
        scores[rule] = _compared(mean_outputs(candidates, members), fused, frames)
    return scores


def small_ensembles(
    folder: Path, candidates: Candidates, frames: PredictedFrames, fused: Float[np.ndarray, "N 22"]
) -> list[dict[str, Any]]:
    """Score the best ensembles of 1, 2, 4 and 8 trials, each used for all tasks.

    The trials are taken in the order in which each next one adds most to the combined score of
    the plain mean on ``select``; the weights of each task are then chosen greedily among them.

    Args:
        folder: The sweep's run folder.
        candidates: Candidates of each task.
        frames: The predicted frames.
        fused: Raw outputs of the sweep's fused model.

    Returns:
        By size: the number of members, the cost, the combined score P on ``select`` and
        ``confirm`` and the difference from the fused model.
    """
    trials = candidates.with_most_tasks(SMALL_CANDIDATES)
    outputs = np.stack([candidates.load(trial.signature).outputs for trial in trials])
    select = frames.positions("select")
    rows = frames.rows[select]
    labels, mask = frames.listing.values[rows], frames.listing.mask[rows]
    order = forward_order(outputs[:, select], labels, mask, max(SMALL_SIZES))
    ensembles = []
    for size in (size for size in SMALL_SIZES if size <= len(order)):
        first = list(order[:size])
        signatures = [trials[i].signature for i in first]
        members, mean = _greedy_mean(outputs[first], signatures, frames)
        scores = _compared(mean, fused, frames)
        ensembles.append({"members": size, **cost(folder, candidates, members), **scores})
    return ensembles


def cost(folder: Path, candidates: Candidates, members: MemberWeights) -> dict[str, float | None]:
    """Return the cost of predicting with some members.

    Args:
        folder: The sweep's run folder.
        candidates: Candidates of each task.
        members: Weight of each member.

    Returns:
        ``models``: number of trained models that run over each frame. ``parameters``: number of
        their parameters; None if weights of a model are no longer kept. ``frames_per_second``:
        predicted frames per second on the machines on which the trials were trained; None if it
        was not measured for every model.
    """
    trials = {trial.signature: trial for trial in candidates.trials}
    models = {(s, trials[s].epochs[task]) for task, weights in members.items() for s in weights}
    counts = [
        _parameters(TrialFolder.in_run(folder, signature).weights_file(epoch))
        for signature, epoch in sorted(models)
    ]
    parameters = sum(c for c in counts if c) if None not in counts else None
    seconds = [each for s, _ in models if (each := trials[s].seconds) is not None]
    rate = 1 / sum(seconds) if len(seconds) == len(models) and any(seconds) else None
    return {"models": len(models), "parameters": parameters, "frames_per_second": rate}


def contributions(
    candidates: Candidates, frames: PredictedFrames, members: MemberWeights, parts: tuple[str, ...]
) -> dict[str, dict[str, Any]]:
    """Return the contribution of each member to the fused model.

    Args:
        candidates: Candidates of each task.
        frames: The predicted frames.
        members: Weight of each member of the fused model.
        parts: Parts on which the fused model is scored.

    Returns:
        By task, for tasks with a label on ``select``: the members' weights, the largest first; the
        correlation of the members' errors on ``select``; and for each part the drop of the task's
        score without each member, with its interval.
    """
    analysis: dict[str, dict[str, Any]] = {}
    for name, member_weights in members.items():
        task = TASKS[name]
        by_weight = dict(sorted(member_weights.items(), key=lambda item: -item[1]))
        signatures, outputs = candidates.task_outputs(task)
        indices = [signatures.index(signature) for signature in by_weight]
        of_members, weights = outputs[indices], np.array(list(by_weight.values()))
        labels, mask = frames.labels(task, "select")
        if not mask.any():
            continue
        select = frames.positions("select")
        correlation = error_correlation(task, of_members[:, select], labels, mask)
        analysis[name] = {
            "members": by_weight,
            "error_correlation": [
                [None if np.isnan(r) else float(r) for r in row] for row in correlation
            ],
            "lost_without": {
                part: _drops_without_each(task, of_members, weights, list(by_weight), frames, part)
                for part in parts
            },
        }
    return analysis


def _greedy_mean(
    outputs: Float[np.ndarray, "M N 22"], signatures: list[str], frames: PredictedFrames
) -> tuple[MemberWeights, Float[np.ndarray, "N 22"]]:
    """Fuse a few trials that predict the same tasks, with weights chosen greedily on ``select``.

    A task without a label on ``select`` is predicted by the first trial.
    """
    select = frames.positions("select")
    mean = np.full(outputs.shape[1:], np.nan, np.float32)
    members: dict[str, dict[str, float]] = {}
    for name in predicted_tasks(outputs[0]):
        task = TASKS[name]
        of_task = outputs[:, :, task.outputs]
        labels, mask = frames.labels(task, "select")
        weights = np.eye(1, len(of_task), dtype=int)[0]
        if mask.any():
            weights = RULES["greedy"](task, of_task[:, select], labels, mask).fusion_weights
        mean[:, task.outputs] = fuse(of_task, weights)
        members[name] = nonzero_weights(signatures, weights)
    return members, mean


def _compared(
    outputs: Float[np.ndarray, "N 22"], fused: Float[np.ndarray, "N 22"], frames: PredictedFrames
) -> dict[str, Any]:
    """Return the combined score P of some outputs, compared with that of the fused model.

    P is given on ``select`` and ``confirm``; the difference on ``confirm`` only, and only if both
    models predict the same tasks.
    """
    scores: dict[str, Any] = {}
    for part in ("select", "confirm"):
        if not len(frames.positions(part)):
            continue
        score = _p(frames, outputs, part)
        interval = None if score is None else score.interval(*BOUNDS["p"])
        scores[part] = None if score is None else {"p": score.score, "interval": interval}
        same = predicted_tasks(outputs) == predicted_tasks(fused)
        reference = _p(frames, fused, part) if same else None
        if part == "confirm" and score is not None and reference is not None:
            scores["minus_fused_raw"] = differences({"p_labelled": score - reference})
    return scores


def _p(
    frames: PredictedFrames, outputs: Float[np.ndarray, "N 22"], part: str
) -> BootstrapScore | None:
    return frames.bootstrap_scores(outputs, part).get("p_labelled")


def _drops_without_each(
    task: Task,
    outputs: Float[np.ndarray, "M N W"],
    weights: np.ndarray,
    signatures: list[str],
    frames: PredictedFrames,
    part: str,
) -> dict[str, Any]:
    """Return the drop of a task's score in one part without each member, by signature."""
    score_name = f"{task.score}_{task.name}"
    fused = _task_scores(frames, task, fuse(outputs, weights), part).get(score_name)
    drops: dict[str, Any] = {}
    for index, signature in enumerate(signatures if len(weights) > 1 else []):
        others = np.where(np.arange(len(weights)) == index, 0, weights)
        without = _task_scores(frames, task, fuse(outputs, others), part).get(score_name)
        if fused is not None and without is not None:
            drop = fused - without
            drops[signature] = {"score": drop.score, "interval": drop.interval()}
    return drops


def _task_scores(
    frames: PredictedFrames, task: Task, outputs: Float[np.ndarray, "N W"], part: str
) -> Mapping[str, BootstrapScore]:
    """Return the scores of one task's outputs in one part."""
    all_columns = np.full((len(outputs), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    all_columns[:, task.outputs] = outputs
    return frames.bootstrap_scores(all_columns, part)


def _parameters(file: Path) -> int | None:
    """Return the number of parameters in a file of weights, or None if the file is missing."""
    try:
        return _count(file)
    except OSError:  # the trial is no longer among the best, whose weights are kept
        return None


def _count(file: Path) -> int:
    with safe_open(file, framework="np") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    return sum(int(np.prod(shape)) for shape in shapes)
