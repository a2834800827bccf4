"""Balancing: methods that weight the losses of several tasks, or combine the tasks' gradients.

A new balancing is one class here, one line in ``BALANCINGS`` and one YAML file in
``sweeps/configs/balancing``. The keyword-only parameters of its constructor are its config keys.

Well-tuned fixed weights match or beat the other methods in Kurin et al. 2022 and Xin et al. 2022.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mtl.strict import AboveZero, NonNegative
from mtl.tasks import TASKS

Losses = Mapping[str, Float[Tensor, ""]]
"""Loss of each task, by the task's name."""
Labelled = Mapping[str, Bool[Tensor, ""]]
"""True for each task with a label in the batch, by the task's name."""
CombineRows = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""Form of ``mtl.optimisation.distributed.Workers.combine_rows``."""


class Balancing(nn.Module, ABC):
    """Base class of the methods that combine the losses of several tasks in each training step."""

    def begin_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Update the weighting of the tasks before an epoch; the base class does nothing.

        Args:
            history: Mean loss of each task in each earlier epoch, in order.
        """

    @abstractmethod
    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """Combine the losses of all tasks into one loss.

        Args:
            losses: Loss of each task; 0 for a task without a label in the batch.
            labelled: True for each task with a label in the batch.
        """

    def backward(
        self,
        losses: Losses,
        labelled: Labelled,
        shared: Sequence[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
        combine_rows: CombineRows,
    ) -> None:
        """Run the backward pass of the combined loss, which sets the gradients of all parameters.

        Args:
            losses: Loss of each task; 0 for a task without a label in the batch.
            labelled: True for each task with a label in the batch.
            shared: Parameters that all tasks share; the base class does not use them.
            scale: Function that multiplies a loss by the scale of the mixed-precision gradient
                scaler (``torch.amp.GradScaler``).
            combine_rows: Function that sums the rows of a matrix over the DDP workers, and combines
                them; the base class does not use it, because DDP sums the gradient of the combined
                loss.
        """
        torch.autograd.backward(scale(self(losses, labelled)))


class Fixed(Balancing):
    """Weighted sum Σ weight x loss over the tasks, with a fixed weight for each task.

    Zhang et al. 2022 use 12 (valence), 12 (arousal), 0.35 (expression) and 1 (action units).

    Args:
        valence, arousal, expression, action_units: Weight of each task's loss.
    """

    def __init__(
        self,
        *,
        valence: NonNegative,
        arousal: NonNegative,
        expression: NonNegative,
        action_units: NonNegative,
    ) -> None:
        super().__init__()
        self.weights = {
            "valence": valence,
            "arousal": arousal,
            "expression": expression,
            "action_units": action_units,
        }

    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """Return the weighted sum of the losses."""
        return _sum([self.weights[task] * loss for task, loss in losses.items()])


class Normalised(Fixed):
    """Weighted sum Σ weight x loss / |loss| of the losses divided by their detached magnitudes.

    The size of a task's gradient then does not depend on the scale of the task's loss.
    """

    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """Return the weighted sum of the losses, each divided by its detached magnitude."""
        return super().forward({task: _normalised(loss) for task, loss in losses.items()}, labelled)


class Uncertainty(Balancing):
    """Uncertainty weighting Σ exp(-s) loss + s with a learnt parameter s for each task.

    The parameter s is the logarithm of a variance, so every weight exp(-s) is positive (Kendall et
    al. 2018, eq. 7).
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.ParameterDict({task: torch.zeros(()) for task in TASKS})

    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """Return the sum of exp(-s) loss + s over the tasks that have a label in the batch.

        Here s is the learnt parameter of each task.
        """
        s = self.log_variance
        return _sum(
            [((-s[task]).exp() * loss + s[task]) * labelled[task] for task, loss in losses.items()]
        )


class DynamicWeightAverage(Balancing):
    """Dynamic weight average: tasks with slowly falling losses get larger weights than others.

    The combined loss is Σ weight x loss (Liu et al. 2019, eq. 7). The weights of K tasks are K
    softmax(r / temperature), where r is a task's mean loss in the last epoch divided by the task's
    mean loss in the epoch before.

    Args:
        temperature: Temperature of the softmax; a higher temperature makes the weights more equal.
    """

    def __init__(self, *, temperature: AboveZero) -> None:
        super().__init__()
        self.temperature = temperature
        self.weights: dict[str, float] = {}

    def begin_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Compute the weight of each task from the task's mean losses in the last two epochs.

        All weights are 1 before the third epoch.

        Args:
            history: Mean loss of each task in each earlier epoch, in order.
        """
        if len(history) < 2:
            return
        before, last = history[-2:]
        ratios = [last[task] / before[task] if before[task] > 0 else 1.0 for task in last]
        weights = len(ratios) * torch.tensor(ratios).div(self.temperature).softmax(dim=0)
        self.weights = dict(zip(last, weights.tolist(), strict=True))

    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """Return the weighted sum of the losses."""
        return _sum([self.weights.get(task, 1.0) * loss for task, loss in losses.items()])


class GradientBalancing(Balancing):
    """Base class of the methods that compute one gradient per task and combine the gradients.

    The gradient of the shared parameters is the aggregate of the tasks' gradients, computed by an
    aggregator of the torchjd library. Parameters of a single task get the gradient of that task's
    loss. With several DDP workers each task's gradient is that of the whole batch.

    Attributes:
        aggregator: Name of the aggregator's class in ``torchjd.aggregation``.
    """

    aggregator: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        from torchjd import aggregation

        self._aggregate = getattr(aggregation, self.aggregator)()

    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """Return the sum of the losses.

        The gradient of this sum is the gradient of each parameter that belongs to a single task.
        """
        return _sum(list(losses.values()))

    def backward(
        self,
        losses: Losses,
        labelled: Labelled,
        shared: Sequence[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
        combine_rows: CombineRows,
    ) -> None:
        """Compute the gradients of all parameters.

        Shared parameters get the aggregate of the gradients of the tasks with a label in the batch.
        Parameters of a single task get the gradient of that task's loss.

        Args:
            losses: Loss of each task; 0 for a task without a label in the batch.
            labelled: True for each task with a label in the batch; other tasks are left out.
            shared: Parameters that all tasks share.
            scale: Function that multiplies a loss by the scale of the mixed-precision gradient
                scaler (``torch.amp.GradScaler``).
            combine_rows: Function that sums the tasks' gradients over the DDP workers before
                they are combined.
        """
        known = [scale(loss) for task, loss in losses.items() if labelled[task]]
        rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in known if shared]
        super().backward(losses, labelled, shared, scale, combine_rows)
        if rows:
            jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
            gradient = combine_rows(jacobian, self._combine)
            parts: Sequence[Tensor] = torch.split(gradient, [p.numel() for p in shared])
            for parameter, part in zip(shared, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def _combine(self, jacobian: Float[Tensor, "tasks parameters"]) -> Float[Tensor, " parameters"]:
        # Aggregators may fail on non-finite values. The plain sum stays non-finite, so the
        # gradient scaler detects the overflow and skips the step.
        finite = jacobian.isfinite().all()
        gradient: Tensor = self._aggregate(jacobian) if finite else jacobian.sum(dim=0)
        return gradient


class UPGrad(GradientBalancing):
    """Mean of the tasks' gradients after each is projected to conflict with no other gradient.

    Source: Quinton and Rey 2024.
    """

    aggregator = "UPGrad"


class PCGrad(GradientBalancing):
    """Sum of the tasks' gradients after removing their conflicting components (Yu et al. 2020).

    Each gradient is projected in random order onto the normal plane of every other gradient that
    conflicts with it.
    """

    aggregator = "PCGrad"


class AlignedMTL(GradientBalancing):
    """Sum of the tasks' gradients after scaling their principal components to equal size.

    Source: Senushkin et al. 2023.
    """

    aggregator = "AlignedMTL"


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return sum(parts[1:], start=parts[0])


def _normalised(loss: Tensor) -> Tensor:
    """Return a loss divided by its detached magnitude; 0 for a loss of 0."""
    size = loss.detach().abs()
    return torch.where(size > 0, loss / torch.where(size > 0, size, 1), 0)


BALANCINGS: dict[str, type[Balancing]] = {
    "fixed": Fixed,
    "normalised": Normalised,
    "uncertainty": Uncertainty,
    "dynamic_weight_average": DynamicWeightAverage,
    "upgrad": UPGrad,
    "pcgrad": PCGrad,
    "aligned_mtl": AlignedMTL,
}
