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
"""Raw outputs of each task by the task's name, shape (windows, frames, outputs of the task)."""
States = dict[str, tuple[Tensor, ...]]
"""Recurrent state of each encoder after a window, by the encoder's name in the framework."""


@dataclass(frozen=True)
class TeacherForcing:
    """Labels that replace some of the model's predictions in training (teacher forcing).

    Attributes:
        labels: Labels of the batch in the columns ``LABEL_COLUMNS``, shape (windows, frames, 15);
            those where ``shown`` is False may have any value.
        shown: True for each label that replaces the model's prediction, in the shape of
            ``labels``.
    """

    labels: Float[Tensor, "B T 15"]
    shown: Bool[Tensor, "B T 15"]


@runtime_checkable
class ModuleFactory(Protocol):
    """Factory of the encoders and heads of a trial's model."""

    def encoder(self, features: int, *, layers: int | None = None, on_top: bool = False) -> Encoder:
        """Make a new encoder with the settings of the trial's config.

        Args:
            features: Width of the input.
            layers: Number of layers; None takes ``encoder.layers`` of the config.
            on_top: True if the input is the output of another encoder of the model.
        """

    def head(self, hidden: int, task: str) -> Head:
        """Make a new head that maps hidden vectors of width ``hidden`` to the outputs of a task."""


class Framework(nn.Module, ABC):
    """Base class of the multi-task models: encoders and heads, and the connections between them.

    Attributes:
        shared: Names of the submodules that all tasks share: every task's loss trains them.
        heads: Head of each trained task, by the task's name.
    """

    shared: tuple[str, ...] = ()
    heads: nn.ModuleDict

    @classmethod
    def check(cls, tasks: Sequence[str], **parameters: Any) -> None:
        """Check that the framework's parameters suit the trained tasks; here nothing is checked.

        Args:
            tasks: Names of the trained tasks.
            parameters: Keyword parameters of the framework's constructor.

        Raises:
            InputError: A parameter does not suit these tasks; the message names the parameter.
        """

    @property
    def carries_state(self) -> bool:
        """True if a video's windows must be visited in order, to carry state between them."""
        return any(module.carries_state for module in self.modules() if isinstance(module, Encoder))

    def teacher_forcing_ratio(self, progress: float) -> float:
        """Return the share of predictions that labels replace (teacher forcing ratio); here 0.

        Args:
            progress: Finished share of the training, in [0, 1].
        """
        return 0.0

    def forward(
        self,
        x: Float[Tensor, "B T F"],
        valid: Bool[Tensor, "B T"],
        states: States | None,
        teacher_forcing: TeacherForcing | None = None,
        sequence_starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Outputs, States]:
        """Compute the raw outputs of each task for a batch of windows.

        Args:
            x: Features, z-scored, shape (windows, frames, features).
            valid: Valid mask, False where a window is padded.
            states: Encoder states after the previous window of each row of the batch; None at the
                start.
            teacher_forcing: Labels that may replace predictions; None at evaluation.
            sequence_starts: True where a video starts; recurrent states are reset there.

        Returns:
            The raw outputs by task, shape (windows, frames, outputs), and the encoder states after
            the windows, for the next call.
        """
        encoder_pass = EncoderPass(valid, states, teacher_forcing, sequence_starts)
        return self.outputs(x, encoder_pass), encoder_pass.states

    @abstractmethod
    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: "EncoderPass") -> Outputs:
        """Compute the raw outputs of each task for a batch of windows.

        Implementations call their encoders through ``encoder_pass.encode``.

        Args:
            x: Features, z-scored, shape (windows, frames, features).
            encoder_pass: Masks and states for the encoders in this forward pass.
        """


class EncoderPass:
    """Masks and encoder states of one forward pass of a multi-task model.

    Attributes:
        valid: Valid mask, False where a window is padded.
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
        """Run an encoder, store its new state in ``states`` and return the hidden vectors.

        Args:
            name: Name of the encoder in the framework, under which its state is stored.
            encoder: Encoder to run.
            x: Input of the encoder.
        """
        h: Tensor
        h, state = encoder(x, self.valid, self._before.get(name), self._sequence_starts)
        if state is not None:
            self.states[name] = state
        return h


def make_heads(factory: ModuleFactory, hidden: int, tasks: Sequence[str]) -> nn.ModuleDict:
    """Make one head for each task; the result maps the task's name to the head."""
    return nn.ModuleDict({task: factory.head(hidden, task) for task in tasks})
