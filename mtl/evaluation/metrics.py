"""The challenge's measures, as sums that can be added before they are scored.

Every task has one vector of sums ``S``. Sums of parts (batches, videos, workers) add up to the sums
of the whole, so a score of pooled predictions never needs the predictions in one place:

- regression: n, sum x, sum y, sum x^2, sum y^2, sum xy, with x predicted and y labelled;
- classes: true positives, predicted, actual and labelled frames of each class or unit.

Shapes: ``N`` frames, ``W`` a task's outputs, ``L`` its label columns, ``S`` its sums. A task whose
outputs are NaN was not predicted: its sums are NaN and its score is None.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Integer

from mtl.tasks import ACTION_UNITS, EXPRESSION, EXPRESSIONS, TASKS, UNITS, Task

Score = TypeVar("Score", float, np.ndarray)

CONSTANT = 1e-12  # a variance below this share of the mean square is rounding, not variation


def task_sums(
    task: Task,
    outputs: Float[np.ndarray, "N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
) -> Float[np.ndarray, " S"]:
    """Sums over the labelled frames.

    Args:
        task: Whose outputs and labels these are.
        outputs: Its values, class probabilities or logits (the largest counts), or unit
            probabilities (positive from 0.5).
        labels: Its labels; what stands where ``mask`` is False is ignored.
        mask: Which labels are known.

    Raises:
        ValueError: If outputs of some labelled frames are finite and others are not.
    """
    per_frame = _per_frame(task, outputs, labels, mask)
    return np.asarray(per_frame.sum(axis=0, dtype=np.float64))


def task_sums_by_group(
    task: Task,
    outputs: Float[np.ndarray, "N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    group: Integer[np.ndarray, " N"],
    groups: int,
) -> Float[np.ndarray, "G S"]:
    """Sums of each group of frames, such as each video; the rows add up to ``task_sums``.

    ``group`` holds numbers from 0 to ``groups - 1``; a group without frames has zero sums.
    """
    per_frame = _per_frame(task, outputs, labels, mask)
    columns = [np.bincount(group, weights=column, minlength=groups) for column in per_frame.T]
    return np.stack(columns, axis=1)


def task_scores(task: Task, sums: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*G"]:
    """Score of each vector of sums (last axis); NaN where nothing is labelled or predicted.

    Concordance correlation with population variance (0 for a constant), or the mean F1 of the
    classes; the mean leaves out a unit that is nowhere labelled.
    """
    if task.kind == "regression":
        return _concordance(sums)
    per_class = class_scores(task, sums)
    known = ~np.isnan(per_class)
    total = np.where(known, per_class, 0.0).sum(axis=-1)
    return np.where(known.any(axis=-1), total / np.maximum(known.sum(axis=-1), 1), np.nan)


def task_score(task: Task, sums: Float[np.ndarray, " S"]) -> float | None:
    """Score of one vector of sums; None where nothing is labelled or predicted."""
    return _or_none(float(task_scores(task, sums)))


def class_scores(task: Task, sums: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*C"]:
    """F1 = 2 tp / (predicted + actual) of each class or unit, 0/0 = 0; NaN where unlabelled."""
    hits, predicted, actual, labelled = np.moveaxis(
        sums.reshape(*sums.shape[:-1], 4, task.width), -2, 0
    )
    found = predicted + actual
    f1 = np.divide(2 * hits, found, out=np.zeros_like(found), where=found > 0)
    return np.where(labelled > 0, f1, np.nan)


def task_score_gradient(task: Task, sums: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """How ``task_scores`` changes with each sum: its gradient; 0 where the score is constant."""
    if task.kind == "regression":
        return _concordance_gradient(sums)
    hits, predicted, actual, labelled = np.moveaxis(
        sums.reshape(*sums.shape[:-1], 4, task.width), -2, 0
    )
    found = np.where(predicted + actual > 0, predicted + actual, np.inf)
    known = labelled > 0
    share = known / np.maximum(known.sum(axis=-1, keepdims=True), 1)  # of a class in the mean
    by_hits, by_found = 2 * share / found, -2 * share * hits / found**2
    slopes = np.stack([by_hits, by_found, by_found, np.zeros_like(hits)], axis=-2)
    return np.asarray(slopes.reshape(sums.shape))


def combine(by_task: Mapping[str, Score | None]) -> Score | None:
    """The challenge's P over the tasks that have a score (or draws of one); None if none has.

    P = (CCC valence + CCC arousal) / 2 + F1 expression + F1 action units, where one of valence and
    arousal stands for both if the other has no score.
    """
    known = {name: score for name, score in by_task.items() if score is not None}
    concordances: list[Any] = [score for name, score in known.items() if TASKS[name].score == "ccc"]
    parts: list[Any] = [score for name, score in known.items() if TASKS[name].score == "f1"]
    if concordances:
        parts.append(sum(concordances) / len(concordances))
    return sum(parts) if parts else None


def scores(
    outputs: Float[np.ndarray, "N 22"],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
) -> dict[str, Any]:
    """All scores of pooled predictions, as ``scores.json`` and ``sweeps/score.py`` hold them.

    ``p_mtl`` is None unless all four tasks have a score; ``p_labelled`` is their P as far as there
    are any. ``frames`` counts the rows, labelled or not.
    """
    sums = {
        task.name: task_sums(
            task, outputs[:, task.outputs], labels[:, task.labels], mask[:, task.labels]
        )
        for task in TASKS.values()
    }
    by_task = {name: task_score(TASKS[name], sums[name]) for name in sums}
    p_labelled = combine(by_task)
    return {
        "p_mtl": None if None in by_task.values() else p_labelled,
        **{f"{TASKS[name].score}_{name}": score for name, score in by_task.items()},
        "per_class": _by_name(EXPRESSIONS, class_scores(EXPRESSION, sums["expression"])),
        "per_unit": _by_name(ACTION_UNITS, class_scores(UNITS, sums["action_units"])),
        "p_labelled": p_labelled,
        "frames": len(outputs),
    }


def decisions(task: Task, outputs: Float[np.ndarray, "N W"]) -> Bool[np.ndarray, "N W"]:
    """Which classes or units the outputs predict: the first largest, or each unit from 0.5."""
    if task.kind == "multiclass":
        return np.asarray(outputs.argmax(axis=1)[:, None] == np.arange(task.width))
    return np.asarray(outputs >= 0.5)


def label_indicators(
    task: Task, labels: Float[np.ndarray, "N L"], mask: Bool[np.ndarray, "N L"]
) -> Bool[np.ndarray, "N W"]:
    """Which classes or units the known labels name."""
    named = np.arange(task.width) if task.kind == "multiclass" else 1
    return np.asarray((labels == named) & mask)


def _per_frame(
    task: Task, outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> np.ndarray:  # (N, S)
    if not _is_predicted(task, outputs, mask):
        size = 6 if task.kind == "regression" else 4 * task.width
        return np.where(mask.any(axis=1, keepdims=True), np.full(size, np.nan), 0.0)
    if task.kind == "regression":
        known, x, y = mask[:, 0], _known(outputs, mask), _known(labels, mask)
        return np.stack([known, x, y, x * x, y * y, x * y], axis=1)
    predicted, actual = decisions(task, outputs) & mask, label_indicators(task, labels, mask)
    labelled = np.broadcast_to(mask, predicted.shape)
    counts = np.stack([predicted & actual, predicted, actual, labelled], axis=1)
    return counts.reshape(len(counts), 4 * task.width)


def _is_predicted(task: Task, outputs: np.ndarray, mask: np.ndarray) -> bool:
    labelled = outputs[np.broadcast_to(mask, outputs.shape)]
    finite = np.isfinite(labelled)
    if not finite.all() and not np.isnan(labelled).all():
        raise ValueError(
            f"the outputs of a task must be finite or all NaN, but of {task.name}'s "
            f"{labelled.size} outputs on labelled frames {(~finite).sum()} are not finite"
        )
    return bool(finite.all())


def _known(column: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, column, 0.0).astype(np.float64)[:, 0]


def _concordance(sums: np.ndarray) -> np.ndarray:
    labelled = sums[..., 0] > 0
    means = sums[..., 1:] / np.where(labelled, sums[..., 0], 1.0)[..., None]
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    var_x, var_y = xx - x * x, yy - y * y
    varies = (var_x > CONSTANT * xx) & (var_y > CONSTANT * yy)
    spread = var_x + var_y + (x - y) ** 2
    ccc = np.divide(2 * (xy - x * y), spread, out=np.zeros_like(spread), where=varies)
    return np.where(labelled, ccc, np.nan)


def _concordance_gradient(sums: np.ndarray) -> np.ndarray:
    n = np.where(sums[..., 0] > 0, sums[..., 0], 1.0)
    x, y, xx, yy, xy = np.moveaxis(sums[..., 1:] / n[..., None], -1, 0)
    spread = xx + yy - 2 * x * y
    spread = np.where(spread > 0, spread, np.inf)
    ccc = np.nan_to_num(_concordance(sums))
    # In means CCC = 2 (xy - x y) / spread; the count's slope makes the rest one of sums.
    by_x, by_y = -2 * y * (1 - ccc) / spread, -2 * x * (1 - ccc) / spread
    by_square, by_product = -ccc / spread, 2 / spread
    slopes = np.stack([by_x, by_y, by_square, by_square, by_product], axis=-1)
    by_count = -(slopes * np.stack([x, y, xx, yy, xy], axis=-1)).sum(axis=-1)
    return np.asarray(np.concatenate([by_count[..., None], slopes], axis=-1) / n[..., None])


def _by_name(names: tuple[str, ...], values: np.ndarray) -> dict[str, float | None]:
    return {name: _or_none(value) for name, value in zip(names, values.tolist(), strict=True)}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
