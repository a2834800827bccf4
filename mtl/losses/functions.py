"""Loss functions of the tasks, each computed from sums over labelled frames.

A loss is ``value(sums(outputs, labels, mask))`` where the sums are additive over frames. DDP
workers all-reduce their sums before they call ``value``, so a batch divided among workers has the
same loss and the same gradient as the whole batch. A frame without a label adds nothing to the
sums; a batch without any label has loss 0 and gradient 0.

A new loss is one class here and one line in ``LOSSES``. The keyword-only parameters of its
constructor are its config keys.

Shapes: N frames, C outputs of the task, L labels of the task (12 for action units, else 1), S sums.
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
"""Lower bound of the frequency of a class or action unit, to keep its inverse (a weight) finite."""
MIN_POWER_BASE = 1e-8
"""Lower bound of the base of a power: at 0 an exponent below 1 has an infinite derivative."""


class Loss(ABC):
    """Base class of the loss functions, which compare a task's raw outputs with the task's labels.

    Args:
        prior: Frequency of each class or action unit among the training labels, in [0, 1]; losses
            of valence and arousal do not use it.
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
        """Return sums over the labelled frames, from which ``value`` computes the loss.

        The sums are differentiable, and the sums of two batches add up to the sums of both
        batches together.

        Args:
            outputs: Raw outputs of each frame, shape (frames, outputs): values (regression) or
                logits.
            labels: Labels of each frame, shape (frames, labels); those where ``mask`` is False may
                have any value, also NaN.
            mask: True for known labels.
        """

    @abstractmethod
    def value(self, sums: Float[Tensor, " S"]) -> Float[Tensor, ""]:
        """Return the loss of a batch, computed from the sums that the method ``sums`` returns."""

    @abstractmethod
    def has_labels(self, sums: Float[Tensor, " S"]) -> Bool[Tensor, ""]:
        """Return True if at least one frame that was summed has a label.

        Args:
            sums: Result of the method ``sums``.
        """


class Mean(Loss):
    """Base class of losses that are a weighted mean of the losses of all known labels."""

    @abstractmethod
    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each label, shape (frames, labels of a frame)."""

    def weights(self, labels: Tensor) -> Tensor:
        """Return the weight of each label in the mean, shape (frames, labels of a frame).

        All weights are 1 unless a subclass overrides this method.
        """
        return torch.ones_like(labels)

    def sums(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the sums (Σ w loss, Σ w) over known labels, where w is the weight of a label."""
        # An unknown label may be NaN or no class index, so it is replaced before any use.
        labels = labels.masked_fill(~mask, 0)
        weights = self.weights(labels) * mask
        each = self.elementwise(outputs, labels).masked_fill(~mask, 0)
        return torch.stack([(weights * each).sum(), weights.sum().to(each)])

    def value(self, sums: Tensor) -> Tensor:
        """Return the weighted mean loss Σ w loss / Σ w; 0 if there is no label."""
        return sums[0] / torch.where(sums[1] > 0, sums[1], 1)

    def has_labels(self, sums: Tensor) -> Tensor:
        """Return True if at least one label is known, so that their total weight is above 0."""
        return sums[1] > 0


class MSE(Mean):
    """Mean squared error of a regression task (valence or arousal)."""

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the squared error (output - label)² of each frame, shape (frames, 1)."""
        return (outputs - labels) ** 2


class CrossEntropy(Mean):
    """Cross-entropy -log softmax(outputs)[label] of the expression task."""

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of each frame, shape (frames, 1)."""
        return functional.cross_entropy(outputs, labels[:, 0].long(), reduction="none")[:, None]


class WeightedCrossEntropy(CrossEntropy):
    """Cross-entropy in which each frame has the weight frequency^-power.

    The frequency is the share of the frame's labelled class among the training labels; with power 1
    all classes have the same total weight.
    """

    def __init__(self, prior: Tensor, *, power: NonNegative = 1.0) -> None:
        super().__init__(prior)
        self.class_weights = self.prior**-power

    def weights(self, labels: Tensor) -> Tensor:
        """Return the weight of each frame, given by the class of its label, shape (frames, 1)."""
        return self.class_weights[labels.long()]


class Focal(CrossEntropy):
    """Focal loss (1 - p)^gamma x cross-entropy (Lin et al. 2017).

    Here p is the predicted probability of the labelled class.
    """

    def __init__(self, prior: Tensor, *, gamma: NonNegative = 2.0) -> None:
        super().__init__(prior)
        self.gamma = gamma

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the focal loss of each frame, shape (frames, 1)."""
        entropy = super().elementwise(outputs, labels)
        return (-torch.expm1(-entropy)).clamp(min=MIN_POWER_BASE) ** self.gamma * entropy


class LogitAdjusted(CrossEntropy):
    """Logit-adjusted loss: cross-entropy of outputs + tau log prior (Menon et al. 2021, 4.2).

    The prior is the frequency of each class among the training labels. Trained with this loss, the
    raw outputs do not favour the classes that are frequent in training.
    """

    def __init__(self, prior: Tensor, *, tau: NonNegative = 1.0) -> None:
        super().__init__(prior)
        self.shift = tau * self.prior.log()

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of outputs + tau log(class frequency) of each frame.

        The result has the shape (frames, 1).
        """
        return super().elementwise(outputs + self.shift, labels)


class BinaryCrossEntropy(Mean):
    """Binary cross-entropy of each action unit, averaged over the known labels of all units."""

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the binary cross-entropy of each action unit, shape (frames, units)."""
        return functional.binary_cross_entropy_with_logits(outputs, labels, reduction="none")


class WeightedBinaryCrossEntropy(BinaryCrossEntropy):
    """Binary cross-entropy in which positive labels have the weight (negatives / positives)^power.

    Negatives and positives are the frequencies of the labels 0 and 1 of an action unit in training.
    """

    def __init__(self, prior: Tensor, *, power: NonNegative = 1.0) -> None:
        super().__init__(prior)
        self.positive_weights = ((1 - self.prior) / self.prior) ** power

    def elementwise(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted binary cross-entropy of each action unit, shape (frames, units)."""
        return functional.binary_cross_entropy_with_logits(
            outputs, labels, reduction="none", pos_weight=self.positive_weights
        )


class Asymmetric(Mean):
    """Asymmetric loss (ASL) of the action units (Ben-Baruch et al. 2021, eq. 3-7).

    Let p be the predicted probability. A positive label has the loss -(1 - p)^gamma_positive log p.
    A negative label has the loss -p'^gamma_negative log(1 - p') with p' = max(p - clip, 0), which
    is 0 for p < clip.
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
        """Return the asymmetric loss of each action unit, shape (frames, units)."""
        p, rest = outputs.sigmoid(), (-outputs).sigmoid()
        positive = rest.clamp(min=MIN_POWER_BASE) ** self.gamma_positive * functional.logsigmoid(
            outputs
        )
        log_rest = functional.logsigmoid(-outputs)
        if self.clip:
            log_rest = (rest + self.clip).clamp(max=1).log()
        negative = (p - self.clip).clamp(min=MIN_POWER_BASE) ** self.gamma_negative * log_rest
        return -torch.where(labels > 0.5, positive, negative)


class CCC(Loss):
    """Loss 1 - CCC over all labelled frames of the batch, for valence and arousal.

    CCC is the concordance correlation coefficient (Lin 1989), here with population variances.
    """

    def sums(self, outputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return (n, Σx, Σy, Σx², Σy², Σxy) of n labelled frames, outputs x and labels y.

        The sums are in double precision, because variances computed from them are small differences
        of large numbers.
        """
        x = outputs.masked_fill(~mask, 0).double()
        y = labels.masked_fill(~mask, 0).double()
        return torch.stack(
            [mask.sum().double(), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]
        )

    def value(self, sums: Tensor) -> Tensor:
        """Return the loss 1 - 2 cov / (var x + var y + (mean x - mean y)²); 0 without labels.

        Here x are the outputs, y the labels and cov their covariance, over all labelled frames.
        """
        count = sums[0].clamp(min=1)
        mean_x, mean_y, mean_xx, mean_yy, mean_xy = sums[1:] / count
        covariance = mean_xy - mean_x * mean_y
        spread = (mean_xx - mean_x**2) + (mean_yy - mean_y**2) + (mean_x - mean_y) ** 2
        # The bound avoids 0 / 0 for one frame or equal constants; the factor makes the loss 0
        # without labels.
        loss: Tensor = (1 - 2 * covariance / spread.clamp(min=1e-8)) * (sums[0] > 0)
        return loss

    def has_labels(self, sums: Tensor) -> Tensor:
        """Return True if at least one frame that was summed has a label."""
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
