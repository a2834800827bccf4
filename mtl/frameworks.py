"""Multi-task frameworks: how the tasks share the encoder.

A new framework is one class here, one line in ``FRAMEWORKS`` and one YAML in
``sweeps/configs/framework``.
"""

from collections.abc import Callable, Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mtl.encoders import Encoder, State
from mtl.heads import Head
from mtl.tasks import TASKS

Outputs = dict[str, Tensor]
MakeEncoder = Callable[[int], Encoder]
MakeHead = Callable[[int, int], Head]


class Framework(nn.Module):
    """Encoder and heads, wired.

    Attributes:
        carries: Whether windows must come in order with a carried state.
    """

    carries: bool

    def forward(
        self, x: Float[Tensor, "B T F"], real: Bool[Tensor, "B T"], state: State
    ) -> tuple[Outputs, State]:
        """Raw outputs (B, T, C) of each task and the state to carry."""
        raise NotImplementedError


class ShareEncoder(Framework):
    """SE: one temporal encoder for all tasks, one head per task (Zhang et al. 2022, 3.3)."""

    def __init__(
        self, features: int, tasks: Sequence[str], make_encoder: MakeEncoder, make_head: MakeHead
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(features)
        self.carries = self.encoder.carries
        self.heads = nn.ModuleDict(
            {task: make_head(self.encoder.hidden, TASKS[task].width) for task in tasks}
        )

    def forward(
        self, x: Float[Tensor, "B T F"], real: Bool[Tensor, "B T"], state: State
    ) -> tuple[Outputs, State]:
        """Raw outputs (B, T, C) of each task and the state to carry."""
        h, state = self.encoder(x, real, state)
        return {task: head(h) for task, head in self.heads.items()}, state


FRAMEWORKS: dict[str, type[Framework]] = {"share_encoder": ShareEncoder}
