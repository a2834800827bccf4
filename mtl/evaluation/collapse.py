"""Detection of collapsed tasks: tasks whose outputs are nearly the same for every frame.

Shapes: N frames, W outputs of a task, L label columns of a task.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from mtl.tasks import Task

COLLAPSED_SPREAD = 0.02
"""Output spread below which a task has collapsed, if it holds for two epochs in a row."""


def output_spread(
    task: Task,
    outputs: Float[np.ndarray, "N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
) -> float | None:
    """Return the standard deviation of a task's outputs, divided by that of its labels.

    Both are taken over the labelled frames. With several columns, the standard deviation is the
    square root of the sum of the columns' population variances. The labels of a multiclass task are
    compared in one-hot form with the class probabilities.

    Args:
        task: The task.
        outputs: Values of a regression task, or probabilities of the classes or action units.
        labels: Labels of the task; ignored where ``mask`` is False.
        mask: True where a label is present.

    Returns:
        0 for constant outputs, 1 for outputs that equal the labels; None if no label is present or
        the labels are constant.
    """
    if task.kind == "multiclass":
        labels = (labels == np.arange(task.width)).astype(np.float64)
    present = np.broadcast_to(mask, outputs.shape)
    of_labels = _total_variance(labels, present)
    if of_labels == 0:
        return None
    return math.sqrt(_total_variance(outputs, present) / of_labels)


def is_collapsed(spread: float | None, earlier: float | None) -> bool:
    """Return True if a task has collapsed, judged by two epochs in a row.

    Args:
        spread: Output spread after an epoch, from ``output_spread``; None if there is none.
        earlier: Output spread after the epoch before; None if there is none.
    """
    return all(value is not None and value < COLLAPSED_SPREAD for value in (spread, earlier))


def _total_variance(values: Float[np.ndarray, "N W"], present: Bool[np.ndarray, "N W"]) -> float:
    """Return the sum of the columns' variances; it is exactly 0 if all columns are constant."""
    columns = [
        column[rows].astype(np.float64)
        for column, rows in zip(values.T, present.T, strict=True)
        if rows.any()
    ]
    return float(sum(np.var(column - column[0]) for column in columns))
