"""Frameworks by what the tasks share of the encoder: nothing, all of it, or its bottom layers."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from mtl.models.frameworks.base import (
    Framework,
    Outputs,
    ModuleFactory,
    EncoderPass,
    make_heads,
)
from mtl.strict import Positive


class SingleTask(Framework):
    """One encoder and one head for each task: the reference, as if each were trained alone."""

    def __init__(self, features: int, tasks: Sequence[str], factory: ModuleFactory) -> None:
        super().__init__()
        encoders = {task: factory.encoder(features) for task in tasks}
        self.encoders = nn.ModuleDict(encoders)
        self.heads = nn.ModuleDict(
            {task: factory.head(encoder.hidden, task) for task, encoder in encoders.items()}
        )

    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: EncoderPass) -> Outputs:
        """Each task's head over its own encoder."""
        return {
            task: head(encoder_pass.encode(task, self.encoders[task], x))
            for task, head in self.heads.items()
        }


class ShareEncoder(Framework):
    """SE: one temporal encoder for all tasks, one head per task (Zhang et al. 2022, 3.3)."""

    shared = ("encoder",)

    def __init__(self, features: int, tasks: Sequence[str], factory: ModuleFactory) -> None:
        super().__init__()
        self.encoder = factory.encoder(features)
        self.heads = make_heads(factory, self.encoder.hidden, tasks)

    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: EncoderPass) -> Outputs:
        """Each task's head over the one encoder."""
        h = encoder_pass.encode("encoder", self.encoder, x)
        return {task: head(h) for task, head in self.heads.items()}


class ShareBottom(Framework):
    """SBE: the bottom layers are shared, each task has its own top layers and head (3.3).

    Args:
        shared_layers: Of the bottom; ``encoder.layers`` are the top's.
    """

    shared = ("bottom",)

    def __init__(
        self, features: int, tasks: Sequence[str], factory: ModuleFactory, *, shared_layers: Positive
    ) -> None:
        super().__init__()
        self.bottom = factory.encoder(features, layers=shared_layers)
        hidden = self.bottom.hidden
        self.tops = nn.ModuleDict({task: factory.encoder(hidden, on_top=True) for task in tasks})
        self.heads = make_heads(factory, hidden, tasks)

    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: EncoderPass) -> Outputs:
        """Each task's head over its top layers over the one bottom."""
        bottom = encoder_pass.encode("bottom", self.bottom, x)
        return {
            task: head(encoder_pass.encode(task, self.tops[task], bottom))
            for task, head in self.heads.items()
        }
