"""A trial's model, and where and in what precision it runs."""

from collections.abc import Sequence

from mtl.config import TrialConfig
from mtl.models.encoders import ENCODERS, Encoder
from mtl.models.frameworks import FRAMEWORKS, Framework
from mtl.models.heads import HEADS, Head
from mtl.tasks import TASKS


class TrialModuleFactory:
    """A trial's encoders and heads."""

    def __init__(self, config: TrialConfig) -> None:
        self._encoder, self._head = config.encoder, config.head

    def encoder(self, features: int, *, layers: int | None = None, on_top: bool = False) -> Encoder:
        """An encoder of ``encoder.layers`` layers, or so many; on top of another one or not."""
        parameters = self._encoder.parameters
        if layers is not None:
            parameters["layers"] = layers
        return ENCODERS[self._encoder.name](features, on_top, **parameters)

    def head(self, hidden: int, task: str) -> Head:
        """A task's head."""
        return HEADS[self._head.name](hidden, TASKS[task].width, **self._head.parameters)


def build_model(config: TrialConfig, features: int, tasks: Sequence[str]) -> Framework:
    """The untrained model over ``features`` joined features."""
    framework = FRAMEWORKS[config.framework.name]
    return framework(features, tasks, TrialModuleFactory(config), **config.framework.parameters)
