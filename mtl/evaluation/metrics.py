"""Scores of the ABAW multi-task challenge (CCC and F1), computed from sums over frames.

Each task has one vector of sums. The sums of parts (batches, videos, workers) add up to the sums of
all frames, so predictions need not be collected in one place to be scored together:

- regression: n, sum x, sum y, sum x^2, sum y^2, sum xy, with x predicted and y labelled;
- classification: numbers of frames that are true positives, predicted, actual and labelled, of each
  class or action unit.

A task with NaN outputs is not predicted: its sums are NaN and its score is None.

Shapes: N frames, W outputs of a task, L label columns of a task, S sums of a task, G groups of
frames, C classes.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Integer

from mtl.tasks import ACTION_UNITS, EXPRESSION, EXPRESSIONS, TASKS, UNITS, Task

Score = TypeVar("Score", float, np.ndarray)

MIN_RELATIVE_VARIANCE = 1e-12
"""Ratio of variance to mean square up to which values count as constant (a rounding error)."""
DECISION_THRESHOLD = 0.5
"""Smallest probability with which an action unit is predicted as active."""
REGRESSION_SUMS = 6
"""Number of sums from which CCC is computed: n, x, y, x^2, y^2 and xy."""
SUMS_PER_CLASS = 4
"""Number of frame counts of each class: true positives, predicted, actual and labelled."""


def task_sums(
    task: Task,
    outputs: Float[np.ndarray, "N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
) -> Float[np.ndarray, " S"]:
    """Return the sums over the labelled frames from which the score of a task is computed.

    Args:
        task: The task.
        outputs: Values of a regression task, class probabilities or logits (the largest is the
            prediction), or action unit probabilities (active from ``DECISION_THRESHOLD``).
        labels: Labels of the task; ignored where ``mask`` is False.
        mask: True where a label is present.

    Returns:
        For a regression task n, sum x, sum y, sum x^2, sum y^2 and sum xy, with x predicted and y
        labelled. For a classification task the numbers of true positive frames of each class, then
        those of predicted, of actual and of labelled frames.

    Raises:
        ValueError: If the outputs of some labelled frames are finite and those of others are not.
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
    """Return the sums from which a task is scored, for each group of frames, such as each video.

    Args:
        task: The task.
        outputs: Values of a regression task, class probabilities or logits, or action unit
            probabilities.
        labels: Labels of the task; ignored where ``mask`` is False.
        mask: True where a label is present.
        group: Group of each frame, from 0 to ``groups - 1``.
        groups: Number of groups; the sums of a group without frames are 0.

    Returns:
        The sums of each group, (groups, sums), in the order in which ``task_sums`` returns them.

    Raises:
        ValueError: If the outputs of some labelled frames are finite and those of others are not.
    """
    per_frame = _per_frame(task, outputs, labels, mask)
    columns = [np.bincount(group, weights=column, minlength=groups) for column in per_frame.T]
    return np.stack(columns, axis=1)


def task_scores(task: Task, sums: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*G"]:
    """Return the score of a task, computed from sums over frames, for one or many sets of frames.

    The score is the concordance correlation coefficient with population variance (0 if predictions
    or labels are constant), or the mean F1 of the classes. An action unit without labels is left
    out of the mean; an expression that no labelled frame shows counts with F1 0.

    Args:
        task: The task.
        sums: Vectors of sums from ``task_sums`` along the last axis.

    Returns:
        One score for each vector of sums; NaN if no frame is labelled or the task is not predicted.
    """
    if task.kind == "regression":
        return _concordance(sums)
    per_class = class_scores(task, sums)
    known = ~np.isnan(per_class)
    total = np.where(known, per_class, 0.0).sum(axis=-1)
    return np.where(known.any(axis=-1), total / np.maximum(known.sum(axis=-1), 1), np.nan)


def task_score(task: Task, sums: Float[np.ndarray, " S"]) -> float | None:
    """Return the score of a task (CCC or F1), computed from sums over frames.

    Args:
        task: The task.
        sums: Sums of the task from ``task_sums``: sums of predictions, labels and their products,
            or frame counts of each class.

    Returns:
        The score, or None if no frame is labelled or the task is not predicted.
    """
    return _or_none(float(task_scores(task, sums)))


def class_scores(task: Task, sums: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*C"]:
    """Return F1 = 2 true positives / (predicted + actual) of each class or action unit.

    Args:
        task: Classification task.
        sums: Vectors of sums from ``task_sums`` (frame counts of each class) along the last axis.

    Returns:
        One F1 for each class, along the last axis: 0 for 0/0, NaN for an action unit without
        labels, and NaN for all expressions if no frame has an expression label.
    """
    true_positives, predicted, actual, labelled = _class_sums(task, sums)
    total = predicted + actual
    f1 = np.divide(2 * true_positives, total, out=np.zeros_like(total), where=total > 0)
    return np.where(labelled > 0, f1, np.nan)


def task_score_gradient(task: Task, sums: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Return the gradient of a task's score with respect to the sums it is computed from.

    Args:
        task: The task.
        sums: Vectors of sums from ``task_sums`` along the last axis.

    Returns:
        The gradient at each vector, in the shape of ``sums``; 0 for a class or action unit that is
        neither predicted nor labelled on any frame.
    """
    if task.kind == "regression":
        return _concordance_gradient(sums)
    true_positives, predicted, actual, labelled = _class_sums(task, sums)
    total = np.where(predicted + actual > 0, predicted + actual, np.inf)
    known = labelled > 0
    class_weight = known / np.maximum(known.sum(axis=-1, keepdims=True), 1)
    by_true_positives = 2 * class_weight / total
    by_total = -2 * class_weight * true_positives / total**2
    by_labelled = np.zeros_like(true_positives)
    gradient = np.stack([by_true_positives, by_total, by_total, by_labelled], axis=-2)
    return np.asarray(gradient.reshape(sums.shape))


def combine(by_task: Mapping[str, Score | None]) -> Score | None:
    """Return the challenge's score P, computed from the scores of the tasks.

    P = (CCC valence + CCC arousal) / 2 + F1 expression + F1 action units. A task without a score is
    left out; if only one of valence and arousal has a score, that score replaces their mean.

    Args:
        by_task: Score of each task by the task's name: a number, an array of scores (one P is then
            computed for each element), or None for no score.

    Returns:
        P, a number or an array like the scores; None if no task has a score.
    """
    known = {name: score for name, score in by_task.items() if score is not None}
    cccs: list[Any] = [score for name, score in known.items() if TASKS[name].score == "ccc"]
    terms: list[Any] = [score for name, score in known.items() if TASKS[name].score == "f1"]
    if cccs:
        terms.append(sum(cccs) / len(cccs))
    return sum(terms) if terms else None


def scores(
    outputs: Float[np.ndarray, "N 22"],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
) -> dict[str, Any]:
    """Return all scores of predictions, as they are written to ``scores.json``.

    Args:
        outputs: Predictions in the columns ``OUTPUT_COLUMNS``, (frames, 22); NaN for a task not
            predicted.
        labels: Labels in the columns ``LABEL_COLUMNS``, (frames, 15).
        mask: True where a label is present, (frames, 15).

    Returns:
        A dict with ``ccc_TASK`` or ``f1_TASK`` for each task, ``per_class`` with the F1 of each
        expression by its name, ``per_unit`` with the F1 of each action unit by its name,
        ``p_labelled`` with the P of the tasks that have a score,
        ``p_mtl`` with the P of all four tasks, and ``frames`` with the number of frames. A score
        that cannot be computed is None. P is the challenge's score: mean CCC of valence and arousal
        plus the F1 of expressions and of action units.
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
    """Return True for each class or action unit that a classification task's outputs predict.

    The class with the largest output is predicted, the first one if several are equal. An action
    unit is predicted if its output is at least ``DECISION_THRESHOLD``.

    Args:
        task: Classification task.
        outputs: Class probabilities or logits, or action unit probabilities, (frames, classes).

    Returns:
        Boolean array of shape (frames, classes).
    """
    if task.kind == "multiclass":
        return np.asarray(outputs.argmax(axis=1)[:, None] == np.arange(task.width))
    return np.asarray(outputs >= DECISION_THRESHOLD)


def label_indicators(
    task: Task, labels: Float[np.ndarray, "N L"], mask: Bool[np.ndarray, "N L"]
) -> Bool[np.ndarray, "N W"]:
    """Return True for each class or action unit that is present in a frame's labels.

    Args:
        task: Classification task.
        labels: Class index, (frames, 1), or 0 or 1 for each action unit, (frames, units).
        mask: True where a label is present; a missing label gives False for all classes.

    Returns:
        Boolean array of shape (frames, classes or units).
    """
    positive = np.arange(task.width) if task.kind == "multiclass" else 1
    return np.asarray((labels == positive) & mask)


def _class_sums(task: Task, sums: np.ndarray) -> np.ndarray:
    """Split the sums of a classification task into four arrays of frame counts.

    Args:
        task: Classification task.
        sums: Vectors of sums along the last axis.

    Returns:
        True positive, predicted, actual and labelled frames of each class, stacked on a first axis.
    """
    by_class = sums.reshape(*sums.shape[:-1], SUMS_PER_CLASS, task.width)
    return np.moveaxis(by_class, -2, 0)


def _per_frame(
    task: Task, outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> np.ndarray:  # (N, S)
    if not _is_predicted(task, outputs, mask):
        size = REGRESSION_SUMS if task.kind == "regression" else SUMS_PER_CLASS * task.width
        return np.where(mask.any(axis=1, keepdims=True), np.full(size, np.nan), 0.0)
    if task.kind == "regression":
        known, x, y = mask[:, 0], _known(outputs, mask), _known(labels, mask)
        return np.stack([known, x, y, x * x, y * y, x * y], axis=1)
    predicted, actual = decisions(task, outputs) & mask, label_indicators(task, labels, mask)
    labelled = np.broadcast_to(mask, predicted.shape)
    counts = np.stack([predicted & actual, predicted, actual, labelled], axis=1)
    return counts.reshape(len(counts), SUMS_PER_CLASS * task.width)


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
    varies = (var_x > MIN_RELATIVE_VARIANCE * xx) & (var_y > MIN_RELATIVE_VARIANCE * yy)
    spread = var_x + var_y + (x - y) ** 2
    ccc = np.divide(2 * (xy - x * y), spread, out=np.zeros_like(spread), where=varies)
    return np.where(labelled, ccc, np.nan)


def _concordance_gradient(sums: np.ndarray) -> np.ndarray:
    n = np.where(sums[..., 0] > 0, sums[..., 0], 1.0)
    x, y, xx, yy, xy = np.moveaxis(sums[..., 1:] / n[..., None], -1, 0)
    spread = xx + yy - 2 * x * y
    spread = np.where(spread > 0, spread, np.inf)
    ccc = np.nan_to_num(_concordance(sums))
    # CCC = 2 (xy - x y) / spread in means; dividing by n and adding the derivative by n converts
    # the gradient by means into one by sums.
    by_x, by_y = -2 * y * (1 - ccc) / spread, -2 * x * (1 - ccc) / spread
    by_square, by_product = -ccc / spread, 2 / spread
    gradient = np.stack([by_x, by_y, by_square, by_square, by_product], axis=-1)
    by_count = -(gradient * np.stack([x, y, xx, yy, xy], axis=-1)).sum(axis=-1)
    return np.asarray(np.concatenate([by_count[..., None], gradient], axis=-1) / n[..., None])


def _by_name(names: tuple[str, ...], values: np.ndarray) -> dict[str, float | None]:
    return {name: _or_none(value) for name, value in zip(names, values.tolist(), strict=True)}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value
