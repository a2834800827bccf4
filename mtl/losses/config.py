"""Config of the losses of all tasks."""

from typing import Annotated

from pydantic import BeforeValidator

from mtl.losses.functions import LOSSES
from mtl.strict import Component, Strict, component_of
from mtl.tasks import TASKS


def _loss_of(task: str) -> BeforeValidator:
    return component_of(f"loss.{task}", LOSSES[TASKS[task].kind])


class LossConfig(Strict):
    """Loss of each task: its name in ``LOSSES`` and its parameters."""

    valence: Annotated[Component, _loss_of("valence")]
    arousal: Annotated[Component, _loss_of("arousal")]
    expression: Annotated[Component, _loss_of("expression")]
    action_units: Annotated[Component, _loss_of("action_units")]
