"""Activation of a model's raw outputs."""

from torch import Tensor

from mtl.tasks import TASKS


def activate(task: str, raw: Tensor) -> Tensor:
    """Turn the raw outputs of a task into values in [-1, 1] or probabilities.

    Args:
        task: Name of the task.
        raw: Raw outputs along the last axis: clamped for a regression task, softmax for one of
            several classes, sigmoid for independent action units.
    """
    kind = TASKS[task].kind
    if kind == "regression":
        return raw.clamp(-1, 1)
    return raw.softmax(dim=-1) if kind == "multiclass" else raw.sigmoid()
