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
class TeacherForcing:
    """Labels that a framework is shown in training.

    Attributes:
        labels: As in a batch; what stands where ``shown`` is False is not looked at.
        shown: Which of them.
    """

    labels: Float[Tensor, "B T 15"]
    shown: Bool[Tensor, "B T 15"]


@runtime_checkable
class ModuleFactory(Protocol):
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
    def carries_state(self) -> bool:
        """Whether windows must come in order with carried states."""
        return any(module.carries_state for module in self.modules() if isinstance(module, Encoder))

    def teacher_forcing_ratio(self, progress: float) -> float:
        """Teacher forcing ratio at a training progress in [0, 1]."""
        return 0.0

    def forward(
        self,
        x: Float[Tensor, "B T F"],
        valid: Bool[Tensor, "B T"],
        states: States | None,
        teacher_forcing: TeacherForcing | None = None,
        sequence_starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Outputs, States]:
        """Compute the raw outputs (B, T, C) of each task.

        Args:
            x: Features, z-scored.
            valid: False where a window is padded.
            states: States that the previous window of each lane left; None at the start.
            teacher_forcing: Labels that may replace predictions; None at evaluation.
            sequence_starts: True where a video starts; recurrent states are reset there.

        Returns:
            The outputs, and the states to carry to the next window.
        """
        encoder_pass = EncoderPass(valid, states, teacher_forcing, sequence_starts)
        return self.outputs(x, encoder_pass), encoder_pass.states

    @abstractmethod
    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: "EncoderPass") -> Outputs:
        """Compute the raw outputs (B, T, C) of each task; encoders are called by ``encoder_pass.encode``.

        Args:
            x: Features, z-scored.
            encoder_pass: The window that is encoded.
        """


class EncoderPass:
    """One window's way through the encoders, each with its own carried state.

    Attributes:
        valid: False where the window is padded.
        teacher_forcing: Labels that may replace predictions; None at evaluation.
        states: The states to carry, of all encoders called so far.
    """

    def __init__(
        self,
        valid: Bool[Tensor, "B T"],
        states: States | None,
        teacher_forcing: TeacherForcing | None,
        sequence_starts: Bool[Tensor, "B T"] | None,
    ) -> None:
        self.valid, self.teacher_forcing = valid, teacher_forcing
        self._before, self._sequence_starts = states or {}, sequence_starts
        self.states: States = {}

    def encode(
        self, name: str, encoder: nn.Module, x: Float[Tensor, "B T F"]
    ) -> Float[Tensor, "B T H"]:
        """The hidden vectors of encoder ``name``."""
        h: Tensor
        h, state = encoder(x, self.valid, self._before.get(name), self._sequence_starts)
        if state is not None:
            self.states[name] = state
        return h


def make_heads(factory: ModuleFactory, hidden: int, tasks: Sequence[str]) -> nn.ModuleDict:
    """A head for each task."""
    return nn.ModuleDict({task: factory.head(hidden, task) for task in tasks})
