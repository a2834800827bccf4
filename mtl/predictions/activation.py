"""Raw outputs of a model as values and probabilities."""

from torch import Tensor

from mtl.tasks import TASKS


def activate(task: str, raw: Tensor) -> Tensor:
    """A task's raw outputs (last axis) as values in [-1, 1] or probabilities."""
    kind = TASKS[task].kind
    if kind == "regression":
        return raw.clamp(-1, 1)
    return raw.softmax(dim=-1) if kind == "multiclass" else raw.sigmoid()
