"""Task heads: a hidden vector in, a task's raw outputs (value or logits) out.

A new head is one class here, one line in ``HEADS`` and one YAML in ``sweeps/configs/head``.
"""

from jaxtyping import Float
from torch import Tensor, nn

from mtl.strict import Positive, Probability


class Head(nn.Module):
    """``trunk`` gives the task's hidden state, ``output`` its raw outputs."""

    trunk: nn.Module
    output: nn.Linear

    def forward(self, h: Float[Tensor, "B T H"]) -> Float[Tensor, "B T C"]:
        """Raw outputs of each frame: the value (regression) or logits."""
        out: Tensor = self.output(self.trunk(h))
        return out


class Linear(Head):
    """Dropout and one linear layer."""

    def __init__(self, hidden: int, outputs: int, *, dropout: Probability) -> None:
        super().__init__()
        self.trunk = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, outputs)


class MLP(Head):
    """Dropout, then (Linear, ReLU, Dropout) for each width, then Linear (theirs: 512, 256)."""

    def __init__(
        self, hidden: int, outputs: int, *, widths: tuple[Positive, ...], dropout: Probability
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Dropout(dropout)]
        for width in widths:
            layers += [nn.Linear(hidden, width), nn.ReLU(), nn.Dropout(dropout)]
            hidden = width
        self.trunk = nn.Sequential(*layers)
        self.output = nn.Linear(hidden, outputs)


HEADS: dict[str, type[Head]] = {"linear": Linear, "mlp": MLP}
