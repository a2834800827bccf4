"""Balancing: the tasks' losses in, the one loss that is minimised out.

A new balancing is one class here, one line in ``BALANCINGS`` and one YAML in
``sweeps/configs/balancing``.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from mtl.strict import NonNegative


class Fixed(nn.Module):
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

    def forward(self, losses: Mapping[str, Float[Tensor, ""]]) -> Float[Tensor, ""]:
        """The weighted sum."""
        parts = [self.weights[task] * loss for task, loss in losses.items()]
        return sum(parts[1:], start=parts[0])


BALANCINGS: dict[str, type[nn.Module]] = {"fixed": Fixed}
