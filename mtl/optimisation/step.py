"""What trainings of all kinds share: the learning rate of a step, the step itself, its seed."""

import math
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn


@runtime_checkable
class Decaying(Protocol):
    """A schedule's numbers, as ``OptimConfig`` has them."""

    @property
    def warmup_epochs(self) -> float:
        """Epochs of linear warm-up."""

    @property
    def decay(self) -> str:
        """``cosine`` or ``constant``."""


def lr_factor(optim: Decaying, epochs: int, progress: float, step: float) -> float:
    """The learning rate as a share of its largest: never 0, also not in the first step."""
    if progress < optim.warmup_epochs:
        return min(1.0, (progress + step) / optim.warmup_epochs)
    if optim.decay == "constant":
        return 1.0
    done = (progress - optim.warmup_epochs) / max(epochs - optim.warmup_epochs, step)
    return 0.5 * (1 + math.cos(math.pi * done))


def follow_gradients(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: Iterable[nn.Parameter],
    clip: float,
) -> None:
    """One step along the gradients, which were scaled by the scaler.

    Args:
        optimizer: Takes it.
        scaler: Of the loss; it leaves out a step whose gradients are not finite.
        parameters: Whose gradients are cut to a norm.
        clip: That norm; 0 for none.
    """
    scaler.unscale_(optimizer)
    if clip:
        torch.nn.utils.clip_grad_norm_(parameters, clip, foreach=True)
    scaler.step(optimizer)
    scaler.update()


def epoch_seed(seed: int, epoch: int) -> int:
    """What torch draws from in an epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
