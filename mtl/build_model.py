"""Construction of a trial's untrained model from its config."""

from collections.abc import Sequence

from mtl.config import TrialConfig
from mtl.models.encoders import ENCODERS, Encoder
from mtl.models.frameworks import FRAMEWORKS, Framework
from mtl.models.heads import HEADS, Head
from mtl.tasks import TASKS


class TrialModuleFactory:
    """Factory of the encoders and heads of one trial's model, as its config describes them.

    Args:
        config: The trial's config.
    """

    def __init__(self, config: TrialConfig) -> None:
        self._encoder, self._head = config.encoder, config.head

    def encoder(self, features: int, *, layers: int | None = None, on_top: bool = False) -> Encoder:
        """Return a new encoder of the kind in the config.

        Args:
            features: Number of features of an input vector.
            layers: Number of layers; None takes ``encoder.layers`` of the config.
            on_top: True if the input is the output of another encoder of the model.
        """
        parameters = self._encoder.parameters
        if layers is not None:
            parameters["layers"] = layers
        return ENCODERS[self._encoder.name](features, on_top, **parameters)

    def head(self, hidden: int, task: str) -> Head:
        """Return a new head (layers from an encoder's output to the outputs of one task).

        Args:
            hidden: Size of the encoder's output vectors.
            task: Name of the task.
        """
        return HEADS[self._head.name](hidden, TASKS[task].width, **self._head.parameters)


def build_model(config: TrialConfig, features: int, tasks: Sequence[str]) -> Framework:
    """Return the untrained model of a trial.

    Args:
        config: The trial's config.
        features: Number of features of an input vector, summed over the joined feature sets.
        tasks: Names of the tasks to train.
    """
    framework = FRAMEWORKS[config.framework.name]
    return framework(features, tasks, TrialModuleFactory(config), **config.framework.parameters)
