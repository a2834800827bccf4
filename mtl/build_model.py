"""Construction of a trial's untrained model from its config."""

from collections.abc import Sequence

from mtl.config import TrialConfig
from mtl.models.encoders import ENCODERS, Encoder
from mtl.models.frameworks import FRAMEWORKS, Framework
from mtl.models.heads import HEADS, Head
from mtl.tasks import TASKS


class TrialModuleFactory:
    """Factory of the encoders and heads that a trial's config describes."""

    def __init__(self, config: TrialConfig) -> None:
        self._encoder, self._head = config.encoder, config.head

    def encoder(self, features: int, *, layers: int | None = None, on_top: bool = False) -> Encoder:
        """Return a new encoder.

        Args:
            features: Width F of the input.
            layers: Number of layers; None takes ``encoder.layers`` of the config.
            on_top: True if the input is the output of another encoder of the model.
        """
        parameters = self._encoder.parameters
        if layers is not None:
            parameters["layers"] = layers
        return ENCODERS[self._encoder.name](features, on_top, **parameters)

    def head(self, hidden: int, task: str) -> Head:
        """Return a new head for a task over hidden vectors of width ``hidden``."""
        return HEADS[self._head.name](hidden, TASKS[task].width, **self._head.parameters)


def build_model(config: TrialConfig, features: int, tasks: Sequence[str]) -> Framework:
    """Return the untrained model of a trial.

    Args:
        config: The trial's config.
        features: Width F of the input: the sum of the widths of the joined feature sets.
        tasks: Names of the tasks to train.
    """
    framework = FRAMEWORKS[config.framework.name]
    return framework(features, tasks, TrialModuleFactory(config), **config.framework.parameters)
