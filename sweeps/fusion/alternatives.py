"""Other ensembles than the fused model, costs of ensembles, contributions of fused trials.

All scores are those of raw outputs, before post-processing. Nothing is chosen on ``confirm``
(validation videos held back for the final scores).

Shapes: M trials, N predicted frames, W outputs of one task, 22 outputs of all tasks.
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
"""Numbers of trials in the small ensembles that are compared with the fused model."""
SMALL_CANDIDATES = 25
"""Number of best trials among which the small ensembles are chosen."""


def rule_scores(
    candidates: Candidates,
    frames: PredictedFrames,
    settings: FusionSection,
    fused: Float[np.ndarray, "N 22"],
) -> dict[str, Any]:
    """Fuse trials by each selection rule, and compare the scores with those of the fused model.

    Args:
        candidates: Trials that may be fused, for each task.
        frames: Frames that the trials predict.
        settings: Section ``fusion`` of the search file.
        fused: Outputs (N, 22) of the sweep's fused model for N frames, before post-processing.

    Returns:
        A dict for each rule, by name of the rule, such as ``greedy``. ``select`` (validation videos
        on which choices are made) and ``confirm`` (validation videos held back): ``p``, the
        combined score (sum of the tasks' scores), and its bootstrap ``interval``.
        ``minus_fused_raw``: on ``confirm``, the rule's ``p`` minus that of ``fused``, under
        ``p_labelled``, with ``interval``.
    """
    scores = {}
    for rule in RULES:
        members = choose_members(candidates, frames, rule, settings.steps)
        scores[rule] = _compared(mean_outputs(candidates, members), fused, frames)
    return scores


def small_ensembles(
    folder: Path, candidates: Candidates, frames: PredictedFrames, fused: Float[np.ndarray, "N 22"]
) -> list[dict[str, Any]]:
    """Score ensembles of 1, 2, 4 and 8 trials, in which every trial is used for all tasks.

    Trials are added one by one. The next trial is the one with which the unweighted mean of outputs
    has the highest combined score on ``select`` (validation videos on which choices are made). The
    trials' weights in the mean are then chosen for each task separately.

    Args:
        folder: The sweep's run folder.
        candidates: Trials that may be fused, for each task.
        frames: Frames that the trials predict.
        fused: Outputs (N, 22) of the sweep's fused model for N frames, before post-processing.

    Returns:
        One dict for each ensemble, the smallest first. ``members``: number of trials. ``models``,
        ``parameters``, ``frames_per_second``: cost of predicting. ``select`` and ``confirm``
        (validation videos held back): ``p``, the combined score (sum of the tasks' scores), and its
        bootstrap ``interval``. ``minus_fused_raw``: on ``confirm``, the ensemble's ``p`` minus that
        of ``fused``, under ``p_labelled``, with ``interval``.
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
    """Return the cost of predicting with an ensemble of trials.

    Args:
        folder: The sweep's run folder.
        candidates: Trials that may be fused, for each task.
        members: Weight of each trial of the ensemble, by task and by signature (hash of config).

    Returns:
        ``models``: number of trained models that run over each frame. ``parameters``: number of
        their parameters; None if the weights of a model have been removed. ``frames_per_second``:
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
    """Return the contribution of each member (trial) to the fused model.

    Args:
        candidates: Trials that may be fused, for each task.
        frames: Frames that the trials predict.
        members: Weight of each member, by task and by signature (hash of the trial's config).
        parts: Splits to score: ``select`` (validation videos on which choices are made), and
            ``confirm`` (validation videos held back) unless it is empty.

    Returns:
        By name of each task with labels on ``select``, a dict. ``members``: weight of each member
        by signature, the largest first. ``error_correlation``: matrix of the correlations between
        the members' errors on ``select``, in the same order. ``lost_without``: by split, then by
        signature of the member left out, ``score`` (drop of the task's score) and ``interval`` (its
        bootstrap interval).
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
    """Fuse a few trials that predict the same tasks, with weights chosen for each task.

    The weights are chosen by greedy selection with replacement on ``select`` (validation videos on
    which choices are made). A task without labels there is predicted by the first trial alone.

    Returns:
        Two values: the trials' weights, by task and then by signature (hash of config); and the
        weighted mean (N, 22) of the trials' outputs.
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
    """Compare the combined scores P (sums of the tasks' scores) of an ensemble and a fused model.

    Args:
        outputs: Outputs (N, 22) of the ensemble, before post-processing.
        fused: Outputs (N, 22) of the fused model for the same frames, before post-processing.
        frames: The N predicted frames.

    Returns:
        ``select`` (validation videos on which choices are made) and ``confirm`` (validation videos
        held back): ``p``, the ensemble's P, and its bootstrap ``interval``. ``minus_fused_raw``: on
        ``confirm``, the ensemble's P minus the fused model's P, under ``p_labelled``, with
        ``interval``; left out if ensemble and fused model predict different tasks.
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
    """Return the drop of a task's score on one split if one trial of the fused model is left out.

    Returns:
        By signature (hash of the config) of the omitted trial: ``score`` (the drop: score with all
        trials minus score without this one) and its bootstrap ``interval``. Empty if only one
        trial is fused or the split has no labels of the task.
    """
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
    """Return the scores of one task's outputs on one split, by name, with bootstrap draws."""
    all_columns = np.full((len(outputs), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    all_columns[:, task.outputs] = outputs
    return frames.bootstrap_scores(all_columns, part)


def _parameters(file: Path) -> int | None:
    """Return the number of parameters in a file of weights; None if the file does not exist."""
    try:
        return _count(file)
    except OSError:  # removed: only the best trials of each task keep their weights
        return None


def _count(file: Path) -> int:
    with safe_open(file, framework="np") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    return sum(int(np.prod(shape)) for shape in shapes)
