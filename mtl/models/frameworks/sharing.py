"""Frameworks where the tasks share no encoder layers, all of them, or the bottom layers.

Shapes: B windows, T frames, F features.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from mtl.models.frameworks.base import (
    EncoderPass,
    Framework,
    ModuleFactory,
    Outputs,
    make_heads,
)
from mtl.strict import Positive


class SingleTask(Framework):
    """Multi-task model with one encoder and one head per task, without any shared parameter.

    The tasks are learnt as in separate models; other frameworks are compared with this one.

    Args:
        features: Width F of the input.
        tasks: Names of the trained tasks.
        factory: Factory of encoders and heads.
    """

    def __init__(self, features: int, tasks: Sequence[str], factory: ModuleFactory) -> None:
        super().__init__()
        encoders = {task: factory.encoder(features) for task in tasks}
        self.encoders = nn.ModuleDict(encoders)
        self.heads = nn.ModuleDict(
            {task: factory.head(encoder.hidden, task) for task, encoder in encoders.items()}
        )

    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: EncoderPass) -> Outputs:
        """Compute the raw outputs of each task with the task's own encoder and head."""
        return {
            task: head(encoder_pass.encode(task, self.encoders[task], x))
            for task, head in self.heads.items()
        }


class ShareEncoder(Framework):
    """Share-encoder framework (SE): one encoder for all tasks, one head per task.

    Source: Zhang et al. 2022, section 3.3.

    Args:
        features: Width F of the input.
        tasks: Names of the trained tasks.
        factory: Factory of encoders and heads.
    """

    shared = ("encoder",)

    def __init__(self, features: int, tasks: Sequence[str], factory: ModuleFactory) -> None:
        super().__init__()
        self.encoder = factory.encoder(features)
        self.heads = make_heads(factory, self.encoder.hidden, tasks)

    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: EncoderPass) -> Outputs:
        """Compute the raw outputs of each task with the shared encoder and the task's own head."""
        h = encoder_pass.encode("encoder", self.encoder, x)
        return {task: head(h) for task, head in self.heads.items()}


class ShareBottom(Framework):
    """Share-bottom framework (SBE): one shared bottom encoder, one top encoder and head per task.

    Source: Zhang et al. 2022, section 3.3.

    Args:
        features: Width F of the input.
        tasks: Names of the trained tasks.
        factory: Factory of encoders and heads.
        shared_layers: Layers of the bottom encoder; each top encoder has ``encoder.layers``.
    """

    shared = ("bottom",)

    def __init__(
        self,
        features: int,
        tasks: Sequence[str],
        factory: ModuleFactory,
        *,
        shared_layers: Positive,
    ) -> None:
        super().__init__()
        self.bottom = factory.encoder(features, layers=shared_layers)
        hidden = self.bottom.hidden
        self.tops = nn.ModuleDict({task: factory.encoder(hidden, on_top=True) for task in tasks})
        self.heads = make_heads(factory, hidden, tasks)

    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: EncoderPass) -> Outputs:
        """Compute raw outputs: shared bottom encoder, then each task's own top encoder and head."""
        bottom = encoder_pass.encode("bottom", self.bottom, x)
        return {
            task: head(encoder_pass.encode(task, self.tops[task], bottom))
            for task, head in self.heads.items()
        }
