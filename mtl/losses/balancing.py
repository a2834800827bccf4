"""Balancing: the tasks' losses in, the gradient that is followed out.

A new balancing is one class here, one line in ``BALANCINGS`` and one YAML in
``sweeps/configs/balancing``: its keyword-only constructor parameters are its config keys.

Evidence: well-tuned fixed weights match or beat the rest (Kurin et al. 2022, Xin et al. 2022).
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
Labelled = Mapping[str, Bool[Tensor, ""]]


class Balancing(nn.Module, ABC):
    """How the losses of several tasks become one step.

    Attributes:
        single_worker_only: Whether it needs each task's own gradient, which one worker has and several do not.
    """

    single_worker_only: ClassVar[bool] = False

    def begin_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Told the mean losses of the epochs so far."""

    @abstractmethod
    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """The one loss.

        Args:
            losses: Of each task.
            labelled: Whether the batch has a label of it at all; the loss is 0 if not.
        """

    def backward(
        self,
        losses: Losses,
        labelled: Labelled,
        shared: Sequence[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        """Fill all gradients.

        Args:
            losses: Of each task.
            labelled: Whether the batch has a label of it.
            shared: The parameters that all tasks share.
            scale: The gradient scaler's.
        """
        torch.autograd.backward(scale(self(losses, labelled)))


class Fixed(Balancing):
    """Σ weight x loss with a fixed weight for each task (theirs: 12, 12, 0.35, 1)."""

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
        """The weighted sum."""
        return _sum([self.weights[task] * loss for task, loss in losses.items()])


class Normalised(Fixed):
    """Σ weight x loss / |loss|: each task pulls with its weight, whatever its loss's scale."""

    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """The weighted sum of losses over their own values."""
        return super().forward(
            {task: _normalised(loss) for task, loss in losses.items()}, labelled
        )


class Uncertainty(Balancing):
    """Σ exp(-s) loss + s with a learnt s for each task (Kendall et al. 2018, eq. 7): s is the log
    of a variance, so that each weight is positive whatever is learnt.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.ParameterDict({task: torch.zeros(()) for task in TASKS})

    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """Tasks without a label in the batch stand aside."""
        s = self.log_variance
        return _sum(
            [((-s[task]).exp() * loss + s[task]) * labelled[task] for task, loss in losses.items()]
        )


class DynamicWeightAverage(Balancing):
    """Σ weight x loss, the weights K softmax(r / temperature) over K tasks, r the ratio of a task's
    last two epochs' losses (Liu et al. 2019, eq. 7): what falls slowly weighs more.
    """

    def __init__(self, *, temperature: AboveZero) -> None:
        super().__init__()
        self.temperature = temperature
        self.weights: dict[str, float] = {}

    def begin_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """All weights are 1 until two epochs are known."""
        if len(history) < 2:
            return
        before, last = history[-2:]
        ratios = [last[task] / before[task] if before[task] > 0 else 1.0 for task in last]
        weights = len(ratios) * torch.tensor(ratios).div(self.temperature).softmax(dim=0)
        self.weights = dict(zip(last, weights.tolist(), strict=True))

    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """The weighted sum."""
        return _sum([self.weights.get(task, 1.0) * loss for task, loss in losses.items()])


class GradientBalancing(Balancing):
    """Combines the tasks' gradients of the shared parameters by an aggregator of torchjd; what
    belongs to one task follows its own loss.
    """

    single_worker_only = True
    aggregator: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        from torchjd import aggregation

        self._aggregate = getattr(aggregation, self.aggregator)()

    def forward(self, losses: Losses, labelled: Labelled) -> Float[Tensor, ""]:
        """The sum, which task parameters follow."""
        return _sum(list(losses.values()))

    def backward(
        self,
        losses: Losses,
        labelled: Labelled,
        shared: Sequence[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        """The aggregate of the gradients of all tasks that have a label."""
        known = [scale(loss) for task, loss in losses.items() if labelled[task]]
        rows = [torch.autograd.grad(loss, shared, retain_graph=True) for loss in known if shared]
        super().backward(losses, labelled, shared, scale)
        if rows:
            jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
            # An overflow stays one, for the gradient scaler to see: aggregators may fail on it.
            finite = jacobian.isfinite().all()
            gradient = self._aggregate(jacobian) if finite else jacobian.sum(dim=0)
            parts = gradient.split([p.numel() for p in shared])
            for parameter, part in zip(shared, parts, strict=True):
                parameter.grad = part.view_as(parameter)


class UPGrad(GradientBalancing):
    """The mean of each gradient projected so that it harms no task (Quinton and Rey 2024)."""

    aggregator = "UPGrad"


class PCGrad(GradientBalancing):
    """Each gradient without what conflicts with the others, in random order (Yu et al. 2020)."""

    aggregator = "PCGrad"


class AlignedMTL(GradientBalancing):
    """Gradients whose principal components are made equally long (Senushkin et al. 2023)."""

    aggregator = "AlignedMTL"


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return sum(parts[1:], start=parts[0])


def _normalised(loss: Tensor) -> Tensor:
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
