"""Activation of a model's raw outputs."""

from torch import Tensor

from mtl.tasks import TASKS


def activate(task: str, raw: Tensor) -> Tensor:
    """Convert the raw outputs of a task's head to values in [-1, 1] or to probabilities.

    Valence and arousal are clamped, expressions pass a softmax, and action units a sigmoid.

    Args:
        task: Name of the task.
        raw: Raw outputs of the task along the last axis.
    """
    kind = TASKS[task].kind
    if kind == "regression":
        return raw.clamp(-1, 1)
    return raw.softmax(dim=-1) if kind == "multiclass" else raw.sigmoid()
