"""Detection of collapsed tasks: tasks whose outputs are nearly the same for every frame.

Shapes: N frames, W outputs of a task, L label columns of a task.
"""

import math

import numpy as np
from jaxtyping import Bool, Float

from mtl.tasks import Task

COLLAPSED_SPREAD = 0.02
"""Output spread below which a task has collapsed, if it holds for two epochs in a row."""


class OutputSpread:
    """Standard deviation of a task's outputs, divided by that of its labels, on fixed frames.

    Both are taken over the labelled frames. With several columns, the standard deviation is the
    square root of the sum of the columns' population variances. The labels of a multiclass task are
    compared in one-hot form with the class probabilities.

    Args:
        task: The task.
        labels: Labels of the task; ignored where ``mask`` is False.
        mask: True where a label is present.
    """

    def __init__(
        self, task: Task, labels: Float[np.ndarray, "N L"], mask: Bool[np.ndarray, "N L"]
    ) -> None:
        if task.kind == "multiclass":
            labels = (labels == np.arange(task.width)).astype(np.float64)
        present = np.broadcast_to(mask, (len(mask), task.width))
        self._columns = np.flatnonzero(present.any(0))
        self._rows = np.flatnonzero(present.any(1))
        self._present = present[np.ix_(self._rows, self._columns)]
        self._of_labels = self._total_variance(labels)

    def of(self, outputs: Float[np.ndarray, "N W"]) -> float | None:
        """Return the output spread after an epoch.

        Args:
            outputs: Values of a regression task, or probabilities of the classes or action units.

        Returns:
            0 for constant outputs, 1 for outputs that equal the labels; None if no label is present
            or the labels are constant.
        """
        if self._of_labels == 0:
            return None
        return math.sqrt(self._total_variance(outputs) / self._of_labels)

    def _total_variance(self, values: Float[np.ndarray, "N W"]) -> float:
        """Return the sum of the columns' variances; it is exactly 0 if all columns are constant."""
        present, counts = self._present, self._present.sum(0)
        kept = values[np.ix_(self._rows, self._columns)].astype(np.float64)
        first = kept[present.argmax(0), np.arange(len(self._columns))] if len(kept) else 0.0
        shifted = np.where(present, kept - first, 0)
        centred = np.where(present, shifted - shifted.sum(0) / counts, 0)
        return float((np.square(centred).sum(0) / counts).sum())


def is_collapsed(spread: float | None, earlier: float | None) -> bool:
    """Return True if a task has collapsed, judged by two epochs in a row.

    Args:
        spread: Output spread after an epoch, from ``OutputSpread``; None if there is none.
        earlier: Output spread after the epoch before; None if there is none.
    """
    return all(value is not None and value < COLLAPSED_SPREAD for value in (spread, earlier))
