"""Losses over labelled frames, each a function of additive sums.

A loss is ``value(sums)`` with ``sums`` additive over frames: workers add theirs up before
``value`` is taken, so a batch that is split among workers has the loss, and the gradient, of the
whole. A frame without a label adds nothing to the sums; a batch without any has loss and
gradient 0.

A new loss is one class here and one line in ``LOSSES``.

Shapes: N frames, C outputs, L labels (1, or 12 action units).
"""

from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from mtl.tasks import Kind


class Loss(Protocol):
    """A loss of raw outputs against labels."""

    def sums(
        self,
        outputs: Float[Tensor, "N C"],
        labels: Float[Tensor, "N L"],
        mask: Bool[Tensor, "N L"],
    ) -> Float[Tensor, " S"]:
        """Additive, differentiable sums over labelled frames."""

    def value(self, sums: Float[Tensor, " S"]) -> Float[Tensor, ""]:
        """The loss of those sums."""


class Mean:
    """The mean of an elementwise loss over what is labelled: Σ loss / count."""

    def each(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of each labelled element, of the mask's shape."""
        raise NotImplementedError

    def sums(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """(Σ loss, count)."""
        # What stands where nothing is known must not even be looked at: it may be no class, or NaN.
        each = self.each(outputs, labels.masked_fill(~mask, 0))
        return torch.stack([each.masked_fill(~mask, 0).sum(), mask.sum().to(each)])

    def value(self, sums: Tensor) -> Tensor:
        """Σ loss / count; 0 where nothing is labelled."""
        return sums[0] / sums[1].clamp(min=1)


class MSE(Mean):
    """Squared error."""

    def each(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(output - label)²."""
        return (outputs - labels) ** 2


class CrossEntropy(Mean):
    """-log softmax(outputs)[label]."""

    def each(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of each frame, (N, 1)."""
        return functional.cross_entropy(outputs, labels[:, 0].long(), reduction="none")[:, None]


class BinaryCrossEntropy(Mean):
    """Of each unit on its own."""

    def each(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The binary cross-entropy of each unit."""
        return functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")


class CCC:
    """1 - CCC (Lin 1989) of all labelled frames of the batch, population variance."""

    def sums(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """(n, Σx, Σy, Σx², Σy², Σxy) in double precision: the variances are differences."""
        x = outputs.masked_fill(~mask, 0).double()
        y = labels.masked_fill(~mask, 0).double()
        return torch.stack(
            [mask.sum().double(), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]
        )

    def value(self, sums: Tensor) -> Tensor:
        """1 - 2 cov / (var x + var y + (mean x - mean y)²); 0 where nothing is labelled."""
        count = sums[0].clamp(min=1)
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = sums[1:] / count
        covariance = mean_xy - mean_x * mean_y
        spread = (mean_xx - mean_x**2) + (mean_yy - mean_y**2) + (mean_x - mean_y) ** 2
        # Without labels the sums are 0 and so is the loss; one frame alone has no correlation.
        loss: Tensor = (1 - 2 * covariance / spread.clamp(min=1e-8)) * (sums[0] > 0)
        return loss


LOSSES: dict[Kind, dict[str, type[Loss]]] = {
    "regression": {"mse": MSE, "ccc": CCC},
    "multiclass": {"cross_entropy": CrossEntropy},
    "multilabel": {"binary_cross_entropy": BinaryCrossEntropy},
}
