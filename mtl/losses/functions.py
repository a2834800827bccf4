"""Losses over labelled frames, each a function of additive sums.

A loss is ``value(sums)`` with ``sums`` additive over frames: workers add theirs up before
``value`` is taken, so a batch that is split among workers has the loss, and the gradient, of the
whole. A frame without a label adds nothing to the sums; a batch without any has loss and
gradient 0.

A new loss is one class here and one line in ``LOSSES``: its keyword-only constructor parameters are
its config keys.

Shapes: N frames, C outputs, L labels (1, or 12 action units).
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from mtl.strict import NonNegative, Probability
from mtl.tasks import Kind

MIN_FREQUENCY = 1e-4
"""A class or unit is taken to be at least this frequent: none weighs without bound."""
MIN_POWER_BASE = 1e-8
"""Base of a power: that of 0 has an infinite derivative for exponents below 1."""


class Loss(ABC):
    """A loss of raw outputs against labels.

    Args:
        prior: How frequent each class or unit is in training.
    """

    def __init__(self, prior: Float[Tensor, " C"]) -> None:
        self.prior = prior.clamp(MIN_FREQUENCY, 1 - MIN_FREQUENCY)

    @abstractmethod
    def sums(
        self,
        outputs: Float[Tensor, "N C"],
        labels: Float[Tensor, "N L"],
        mask: Bool[Tensor, "N L"],
    ) -> Float[Tensor, " S"]:
        """Additive, differentiable sums over labelled frames."""

    @abstractmethod
    def value(self, sums: Float[Tensor, " S"]) -> Float[Tensor, ""]:
        """The loss of those sums."""

    @abstractmethod
    def has_labels(self, sums: Float[Tensor, " S"]) -> Bool[Tensor, ""]:
        """Whether any frame had a label."""


class Mean(Loss):
    """The weighted mean of an elementwise loss over what is labelled: Σ w loss / Σ w."""

    @abstractmethod
    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of each labelled element, of the mask's shape."""

    def weights(self, labels: Tensor) -> Tensor:
        """What each element counts."""
        return torch.ones_like(labels)

    def sums(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """(Σ w loss, Σ w)."""
        # What stands where nothing is known must not even be looked at: it may be no class, or NaN.
        labels = labels.masked_fill(~mask, 0)
        weights = self.weights(labels) * mask
        each = self.elementwise(outputs, labels).masked_fill(~mask, 0)
        return torch.stack([(weights * each).sum(), weights.sum().to(each)])

    def value(self, sums: Tensor) -> Tensor:
        """Σ w loss / Σ w; 0 where nothing is labelled."""
        return sums[0] / torch.where(sums[1] > 0, sums[1], 1)

    def has_labels(self, sums: Tensor) -> Tensor:
        """Σ w > 0."""
        return sums[1] > 0


class MSE(Mean):
    """Squared error."""

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """(output - label)²."""
        return (outputs - labels) ** 2


class CrossEntropy(Mean):
    """-log softmax(outputs)[label]."""

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of each frame, (N, 1)."""
        return functional.cross_entropy(outputs, labels[:, 0].long(), reduction="none")[:, None]


class WeightedCrossEntropy(CrossEntropy):
    """Cross-entropy in which a class weighs prior^-power: at power 1 all classes weigh the same."""

    def __init__(self, prior: Tensor, *, power: NonNegative = 1.0) -> None:
        super().__init__(prior)
        self.class_weights = self.prior**-power

    def weights(self, labels: Tensor) -> Tensor:
        """Each frame's class's."""
        return self.class_weights[labels.long()]


class Focal(CrossEntropy):
    """(1 - p)^gamma x cross-entropy, p the label's probability (Lin et al. 2017)."""

    def __init__(self, prior: Tensor, *, gamma: NonNegative = 2.0) -> None:
        super().__init__(prior)
        self.gamma = gamma

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Frames that are well classified count little."""
        entropy = super().elementwise(outputs, labels)
        return (-torch.expm1(-entropy)).clamp(min=MIN_POWER_BASE) ** self.gamma * entropy


class LogitAdjusted(CrossEntropy):
    """Cross-entropy of outputs + tau log prior (Menon et al. 2021, 4.2): what the model says of a
    class is then free of how frequent it is.
    """

    def __init__(self, prior: Tensor, *, tau: NonNegative = 1.0) -> None:
        super().__init__(prior)
        self.shift = tau * self.prior.log()

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The cross-entropy of the shifted outputs."""
        return super().elementwise(outputs + self.shift, labels)


class BinaryCrossEntropy(Mean):
    """Of each unit on its own."""

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The binary cross-entropy of each unit."""
        return functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")


class WeightedBinaryCrossEntropy(BinaryCrossEntropy):
    """Binary cross-entropy in which a unit's positives weigh (negatives / positives)^power."""

    def __init__(self, prior: Tensor, *, power: NonNegative = 1.0) -> None:
        super().__init__(prior)
        self.positive_weights = ((1 - self.prior) / self.prior) ** power

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The binary cross-entropy of each unit, positives weighted."""
        return functional.binary_cross_entropy_with_logits(
            outputs, labels, reduction="none", pos_weight=self.positive_weights
        )


class Asymmetric(Mean):
    """ASL (Ben-Baruch et al. 2021, eq. 3-7): positives (1 - p)^gamma_positive, negatives
    p'^gamma_negative with p' = max(p - clip, 0), so that easy negatives count nothing.
    """

    def __init__(
        self,
        prior: Tensor,
        *,
        gamma_negative: NonNegative = 4.0,
        gamma_positive: NonNegative = 0.0,
        clip: Probability = 0.05,
    ) -> None:
        super().__init__(prior)
        self.gamma_negative, self.gamma_positive, self.clip = gamma_negative, gamma_positive, clip

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of each unit."""
        p, rest = outputs.sigmoid(), (-outputs).sigmoid()
        positive = rest.clamp(min=MIN_POWER_BASE) ** self.gamma_positive * functional.logsigmoid(outputs)
        log_rest = functional.logsigmoid(-outputs)
        if self.clip:
            log_rest = (rest + self.clip).clamp(max=1).log()
        negative = (p - self.clip).clamp(min=MIN_POWER_BASE) ** self.gamma_negative * log_rest
        return -torch.where(labels > 0.5, positive, negative)


class CCC(Loss):
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

    def has_labels(self, sums: Tensor) -> Tensor:
        """n > 0."""
        return sums[0] > 0


LOSSES: dict[Kind, dict[str, type[Any]]] = {
    "regression": {"mse": MSE, "ccc": CCC},
    "multiclass": {
        "cross_entropy": CrossEntropy,
        "weighted_cross_entropy": WeightedCrossEntropy,
        "focal": Focal,
        "logit_adjusted": LogitAdjusted,
    },
    "multilabel": {
        "binary_cross_entropy": BinaryCrossEntropy,
        "weighted_binary_cross_entropy": WeightedBinaryCrossEntropy,
        "asymmetric": Asymmetric,
    },
}
