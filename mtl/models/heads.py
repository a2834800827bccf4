"""Task heads, which map the hidden vector of a frame to the raw outputs of one task.

A new head is one class here, one line in ``HEADS`` and one YAML file in ``sweeps/configs/head``.
The keyword-only parameters of its constructor are its config keys.

Shapes: B windows, T frames, H hidden, C outputs of the task.
"""

from jaxtyping import Float
from torch import Tensor, nn

from mtl.strict import Positive, Probability


class Head(nn.Module):
    """Base class of the task heads, which compute raw outputs as ``output(trunk(h))``.

    Attributes:
        trunk: Layers below the output layer; their output is the task's own hidden vector.
        output: Linear output layer.
    """

    trunk: nn.Module
    output: nn.Linear

    def forward(self, h: Float[Tensor, "B T H"]) -> Float[Tensor, "B T C"]:
        """Return the task's raw outputs for each frame: the value (regression) or logits.

        Args:
            h: Hidden vectors of the encoder, shape (windows, frames, hidden).
        """
        out: Tensor = self.output(self.trunk(h))
        return out


class Linear(Head):
    """Head of dropout and one linear layer.

    Args:
        hidden: Width H of the input.
        outputs: Number C of outputs.
        dropout: Dropout probability.
    """

    def __init__(self, hidden: int, outputs: int, *, dropout: Probability) -> None:
        super().__init__()
        self.trunk = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, outputs)


class MLP(Head):
    """Head of dropout, (Linear, ReLU, Dropout) for each width, and a linear output layer.

    Zhang et al. 2022 use the widths 512 and 256.

    Args:
        hidden: Width H of the input.
        outputs: Number C of outputs.
        widths: Width of each hidden layer.
        dropout: Dropout probability.
    """

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
