"""One trial's config: frozen, typed, strict.

It says all that a trained model depends on beside its data; it is composed from the YAML groups in
``sweeps/configs``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mtl.config_keys import with_present_names
from mtl.errors import InputError
from mtl.losses.balancing import BALANCINGS
from mtl.losses.config import LossConfig
from mtl.models.encoders import ENCODERS
from mtl.models.frameworks import FRAMEWORKS
from mtl.models.heads import HEADS
from mtl.strict import (
    AboveZero,
    Component,
    NonNegative,
    Positive,
    Strict,
    component_of,
    did_you_mean,
    validate_as,
)
from mtl.tasks import TASKS

FrameChoice = Literal["listed", "all"]
"""Frames of a video that a model sees: those that the annotation files list, or all."""


class SequenceConfig(Strict):
    """Which frames of a video a model walks over, and in what windows.

    Attributes:
        frames: ``listed`` (those in the annotation and release files) or ``all`` with features.
        frame_stride: Every n-th of them.
        window_frames: Most frames of a window; the batch is ``optim.batch_videos`` of them.
    """

    frames: FrameChoice
    frame_stride: Positive
    window_frames: Annotated[int, Field(ge=2)]


class OptimConfig(Strict):
    """Optimizer and schedule; the schedule is taken per step.

    Attributes:
        batch_videos: Windows, of as many videos, in a step over all workers together; for an
            encoder that carries no state, as many more as shorter ones have room.
        warmup_epochs: Epochs (may be broken) of linear warm-up from lr / steps to lr.
        decay: ``cosine`` to 0, or ``constant``.
        gradient_clip: Largest norm of the gradient; 0 for none.
    """

    name: Literal["adam", "adamw"]
    lr: AboveZero
    weight_decay: NonNegative
    batch_videos: Positive
    warmup_epochs: NonNegative
    decay: Literal["cosine", "constant"]
    gradient_clip: NonNegative


class TrainingConfig(Strict):
    """How long, from which seed, where.

    Attributes:
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.
        precision: ``auto`` is bfloat16 autocast on CUDA devices that have it, else float32; in
            float64, for checks, are the model and its features.
    """

    epochs: Positive
    seed: Annotated[int, Field(ge=0)]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float64", "float32", "bfloat16", "float16"]


class TrialConfig(Strict):
    """Everything one trial is; see the classes of its parts."""

    features: Annotated[tuple[str, ...], Field(min_length=1)]
    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    sequence: SequenceConfig
    encoder: Annotated[Component, component_of("encoder", ENCODERS)]
    head: Annotated[Component, component_of("head", HEADS)]
    framework: Annotated[Component, component_of("framework", FRAMEWORKS)]
    loss: LossConfig
    balancing: Annotated[Component, component_of("balancing", BALANCINGS)]
    optim: OptimConfig
    training: TrainingConfig

    @field_validator("features", "tasks")
    @classmethod
    def _once(cls, values: tuple[str, ...], info: Any) -> tuple[str, ...]:
        if len(set(values)) < len(values):
            raise InputError(f"{info.field_name} = {list(values)} names one twice: name each once")
        for value in values:
            if info.field_name == "tasks" and value not in TASKS:
                raise InputError(f"tasks: {value!r} is unknown{did_you_mean(value, TASKS)}")
        return values

    @model_validator(mode="after")
    def _wired(self) -> "TrialConfig":
        FRAMEWORKS[self.framework.name].check(self.tasks, **self.framework.parameters)
        return self

    def plain(self) -> dict[str, Any]:
        """As mappings, lists, numbers and strings; ``read_config`` takes it back."""
        return self.model_dump(mode="json", serialize_as_any=True)


def read_config(plain: Mapping[str, Any]) -> TrialConfig:
    """Return the typed config of plain data, whose keys may have the names of earlier versions.

    Raises:
        InputError: One sentence on the first unknown key or refused value, with its dotted path.
    """
    return validate_as(TrialConfig, with_present_names(plain))
