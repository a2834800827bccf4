"""Config of the loss functions of all tasks."""

from typing import Annotated

from pydantic import BeforeValidator

from mtl.losses.functions import LOSSES
from mtl.strict import Component, Strict, component_of
from mtl.tasks import TASKS


def _loss_of(task: str) -> BeforeValidator:
    return component_of(f"loss.{task}", LOSSES[TASKS[task].kind])


class LossConfig(Strict):
    """Config of the loss function of each task.

    Each value is the name of a loss in ``mtl.losses.functions.LOSSES`` with the loss's parameters.
    """

    valence: Annotated[Component, _loss_of("valence")]
    arousal: Annotated[Component, _loss_of("arousal")]
    expression: Annotated[Component, _loss_of("expression")]
    action_units: Annotated[Component, _loss_of("action_units")]
