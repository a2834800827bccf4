"""What a multi-task framework is: encoders and heads, wired.

Shapes: B windows, T frames, F features, H hidden, C outputs of a task.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mtl.models.encoders import Encoder
from mtl.models.heads import Head

Outputs = dict[str, Tensor]
States = dict[str, tuple[Tensor, ...]]
"""What each encoder carries from window to window, by its name in the framework."""


@dataclass(frozen=True)
class Truth:
    """Labels that a framework is shown in training.

    Attributes:
        labels: As in a batch; what stands where ``shown`` is False is not looked at.
        shown: Which of them.
    """

    labels: Float[Tensor, "B T 15"]
    shown: Bool[Tensor, "B T 15"]


@runtime_checkable
class Parts(Protocol):
    """Makes the parts of a trial's model."""

    def encoder(self, features: int, *, layers: int | None = None, on_top: bool = False) -> Encoder:
        """An encoder of ``encoder.layers`` layers, or so many; on top of another one or not."""

    def head(self, hidden: int, task: str) -> Head:
        """A task's head."""


class Framework(nn.Module, ABC):
    """Encoders and heads, wired.

    Attributes:
        shared: Names of the modules that every task's loss reaches.
        heads: Each trained task's.
    """

    shared: tuple[str, ...] = ()
    heads: nn.ModuleDict

    @classmethod
    def check(cls, tasks: Sequence[str], **parameters: Any) -> None:
        """Refuse a wiring that these tasks cannot have.

        Raises:
            InputError: Which part of it, and why.
        """

    @property
    def carries(self) -> bool:
        """Whether windows must come in order with carried states."""
        return any(module.carries for module in self.modules() if isinstance(module, Encoder))

    def truth_share(self, progress: float) -> float:
        """The share of labels that it is shown when this share of the training is over."""
        return 0.0

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "B T F"],
        real: Bool[Tensor, "B T"],
        states: States | None,
        truth: Truth | None = None,
        begins: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Outputs, States]:
        """Raw outputs (B, T, C) of each task.

        Args:
            x: Features, z-scored.
            real: Which frames are no padding.
            states: What the previous window of each lane left behind; None at the start.
            truth: Labels to be shown; none at evaluation.
            begins: Frames at which a video begins.

        Returns:
            The outputs, and the states to carry.
        """


class Walk:
    """One window's way through encoders, each with its own carried state."""

    def __init__(
        self,
        real: Bool[Tensor, "B T"],
        states: States | None,
        begins: Bool[Tensor, "B T"] | None,
    ) -> None:
        self.real, self._before, self._begins = real, states or {}, begins
        self.states: States = {}

    def encode(
        self, name: str, encoder: nn.Module, x: Float[Tensor, "B T F"]
    ) -> Float[Tensor, "B T H"]:
        """The hidden vectors of encoder ``name``."""
        h: Tensor
        h, state = encoder(x, self.real, self._before.get(name), self._begins)
        if state is not None:
            self.states[name] = state
        return h


def make_heads(parts: Parts, hidden: int, tasks: Sequence[str]) -> nn.ModuleDict:
    """A head for each task."""
    return nn.ModuleDict({task: parts.head(hidden, task) for task in tasks})
