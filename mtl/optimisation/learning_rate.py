"""Learning-rate schedule: linear warm-up, then cosine decay or a constant rate."""

import math
from typing import Literal, Protocol, runtime_checkable


@runtime_checkable
class ScheduleSettings(Protocol):
    """Settings of a learning-rate schedule, as a config's ``optim`` section has them.

    Attributes:
        warmup_epochs: Epochs of linear warm-up; may have a fraction.
        decay: Course of the learning rate after warm-up: ``cosine`` to 0, or ``constant``.
    """

    warmup_epochs: float
    decay: Literal["cosine", "constant"]


def learning_rate_factor(
    warmup_epochs: float,
    decay: Literal["cosine", "constant"],
    epochs: int,
    epochs_done: float,
    step_epochs: float,
) -> float:
    """Return the learning rate of a training step as a share of the peak learning rate, in (0, 1].

    In the linear warm-up the share rises from step_epochs / warmup_epochs to 1. With cosine decay
    it is then 0.5 (1 + cos(π t)), where t is the finished share of the epochs after warm-up.

    Args:
        warmup_epochs: Epochs of linear warm-up; may have a fraction.
        decay: Course of the learning rate after warm-up: ``cosine`` to 0, or ``constant``.
        epochs: Epochs of the whole training.
        epochs_done: Epochs finished before this step, with fraction.
        step_epochs: Length of a step in epochs, 1 / steps per epoch.
    """
    if epochs_done < warmup_epochs:
        return min(1.0, (epochs_done + step_epochs) / warmup_epochs)
    if decay == "constant":
        return 1.0
    decayed = (epochs_done - warmup_epochs) / max(epochs - warmup_epochs, step_epochs)
    return 0.5 * (1 + math.cos(math.pi * decayed))
