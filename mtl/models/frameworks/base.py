"""Base class of the multi-task frameworks and the types that frameworks use.

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
"""Raw outputs of each task, shape (B, T, C), by the task's name."""
States = dict[str, tuple[Tensor, ...]]
"""State of each encoder after a window, by the encoder's name in the framework."""


@dataclass(frozen=True)
class TeacherForcing:
    """Labels that may replace predictions in training (teacher forcing).

    Attributes:
        labels: Labels of the batch; those where ``shown`` is False may have any value.
        shown: True for labels that replace the prediction.
    """

    labels: Float[Tensor, "B T 15"]
    shown: Bool[Tensor, "B T 15"]


@runtime_checkable
class ModuleFactory(Protocol):
    """Factory of the encoders and heads of a trial's model."""

    def encoder(self, features: int, *, layers: int | None = None, on_top: bool = False) -> Encoder:
        """Return a new encoder.

        Args:
            features: Width F of the input.
            layers: Number of layers; None takes ``encoder.layers`` of the config.
            on_top: True if the input is the output of another encoder of the model.
        """

    def head(self, hidden: int, task: str) -> Head:
        """Return a new head for a task over hidden vectors of width ``hidden``."""


class Framework(nn.Module, ABC):
    """Base of the multi-task models: encoders and heads, and the connections between them.

    Attributes:
        shared: Names of the submodules with parameters that every task's loss trains.
        heads: Head of each trained task, by the task's name.
    """

    shared: tuple[str, ...] = ()
    heads: nn.ModuleDict

    @classmethod
    def check(cls, tasks: Sequence[str], **parameters: Any) -> None:
        """Check that the framework's parameters suit the trained tasks.

        Args:
            tasks: Names of the trained tasks.
            parameters: Keyword parameters of the framework's constructor.

        Raises:
            InputError: A parameter does not suit these tasks; the message names the parameter.
        """

    @property
    def carries_state(self) -> bool:
        """True if windows must be visited in order because an encoder carries its state."""
        return any(module.carries_state for module in self.modules() if isinstance(module, Encoder))

    def teacher_forcing_ratio(self, progress: float) -> float:
        """Return the teacher forcing ratio at a training progress in [0, 1]; here always 0."""
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
            valid: Valid mask: False where a window is padded.
            states: States after the previous window of each lane; None at the start.
            teacher_forcing: Labels that may replace predictions; None at evaluation.
            sequence_starts: True where a video starts; recurrent states are reset there.

        Returns:
            The outputs, and the states after the windows, for the next call.
        """
        encoder_pass = EncoderPass(valid, states, teacher_forcing, sequence_starts)
        return self.outputs(x, encoder_pass), encoder_pass.states

    @abstractmethod
    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: "EncoderPass") -> Outputs:
        """Compute the raw outputs (B, T, C) of each task.

        Implementations call their encoders through ``encoder_pass.encode``.

        Args:
            x: Features, z-scored.
            encoder_pass: Masks and states for the encoders in this forward pass.
        """


class EncoderPass:
    """Masks and encoder states of one forward pass of a framework.

    Attributes:
        valid: Valid mask: False where a window is padded.
        teacher_forcing: Labels that may replace predictions; None at evaluation.
        states: States after the windows, of the encoders called so far.
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
        """Return an encoder's hidden vectors and store its new state in ``states``.

        Args:
            name: Name of the encoder in the framework, under which its state is stored.
            encoder: The encoder.
            x: Input of the encoder.
        """
        h: Tensor
        h, state = encoder(x, self.valid, self._before.get(name), self._sequence_starts)
        if state is not None:
            self.states[name] = state
        return h


def make_heads(factory: ModuleFactory, hidden: int, tasks: Sequence[str]) -> nn.ModuleDict:
    """Return a new head for each task, by the task's name."""
    return nn.ModuleDict({task: factory.head(hidden, task) for task in tasks})
