"""Config of one trial: frozen, typed and strictly checked.

The config holds every setting that a trained model depends on, apart from its data. Programs
compose it from the YAML groups in ``sweeps/configs``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mtl.errors import InputError
from mtl.losses.balancing import BALANCINGS
from mtl.losses.config import LossConfig
from mtl.models.encoders import ENCODERS
from mtl.models.frameworks import FRAMEWORKS
from mtl.models.heads import HEADS
from mtl.renamed_keys import with_present_names
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
"""Frames of a video that a model sees: those in the annotation files, or all with features."""


class SequenceConfig(Strict):
    """Settings of the frames that a model sees and of the windows that they are divided into.

    Attributes:
        frames: ``listed`` (frames in the annotation files and the test list) or ``all`` (every
            frame with features).
        frame_stride: Step between the frames that the model sees; 1 takes every frame.
        window_frames: Maximum number of frames in a window.
    """

    frames: FrameChoice
    frame_stride: Positive
    window_frames: Annotated[int, Field(ge=2)]


class OptimConfig(Strict):
    """Settings of the optimizer and of the learning-rate schedule, which changes at each step.

    Attributes:
        name: Optimizer, ``adam`` or ``adamw``.
        lr: Peak learning rate. With ``lr_reference_width`` it is that of an encoder of this width.
        weight_decay: Weight decay of the optimizer.
        batch_videos: Number of full windows in a step, summed over all DDP workers. With a
            recurrent encoder the windows of a step are of different videos; with other encoders a
            step has more windows if they are shorter than ``sequence.window_frames``.
        warmup_epochs: Epochs of linear warm-up to ``lr``; may be a fraction.
        warmup_steps: Steps of linear warm-up, in place of ``warmup_epochs``; None for no
            replacement. A number of steps fits datasets of any size.
        lr_reference_width: Width at which the peak learning rate is ``lr``. At another width
            ``encoder.hidden`` it is lr x lr_reference_width / encoder.hidden, since wider layers
            need smaller steps (Yang et al. 2022, "Tensor Programs V"). None for the same learning
            rate at all widths.
        decay: Schedule after the warm-up: ``cosine`` (to 0) or ``constant``.
        gradient_clip: Maximum norm of the gradient; 0 turns clipping off.
    """

    name: Literal["adam", "adamw"]
    lr: AboveZero
    weight_decay: NonNegative
    batch_videos: Positive
    warmup_epochs: NonNegative
    decay: Literal["cosine", "constant"]
    gradient_clip: NonNegative
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    lr_reference_width: Positive | None = None

    def warmup_in_epochs(self, steps: int) -> float:
        """Return the length of the warm-up in epochs.

        Args:
            steps: Training steps of an epoch.
        """
        return self.warmup_epochs if self.warmup_steps is None else self.warmup_steps / steps


class TrainingConfig(Strict):
    """Settings of the length, the random seed, the device and the precision of a training.

    Attributes:
        epochs: Number of epochs.
        seed: Seed of all random numbers.
        device: ``auto`` (CUDA if available, else the CPU), ``cpu`` or ``cuda``.
        precision: ``auto`` is bfloat16 autocast on CUDA devices that support it, else float32.
            With float64, meant for checks, weights and features are float64.
    """

    epochs: Positive
    seed: Annotated[int, Field(ge=0)]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float64", "float32", "bfloat16", "float16"]


class TrialConfig(Strict):
    """Config of one trial (training of one model): every setting except the data.

    Attributes:
        features: Names of the feature sets; the model's input is their concatenation.
        tasks: Names of the tasks to train.
        sequence: Choice of frames, and their division into windows.
        encoder: Name of the encoder's class, a key of ``ENCODERS``, and its parameters.
        head: Name of the class of each task's head, a key of ``HEADS``, and its parameters.
        framework: Name of the multi-task framework (how tasks share layers), a key of
            ``FRAMEWORKS``, and its parameters.
        loss: Loss of each task.
        balancing: Name of the weighting of the tasks' losses or gradients, a key of
            ``BALANCINGS``, and its parameters.
        optim: Optimizer and learning-rate schedule.
        training: Epochs, seed, device and precision.
    """

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
    def _reject_duplicates_and_unknown_tasks(
        cls, values: tuple[str, ...], info: Any
    ) -> tuple[str, ...]:
        if len(set(values)) < len(values):
            raise InputError(f"{info.field_name} = {list(values)} names one twice: name each once")
        for value in values:
            if info.field_name == "tasks" and value not in TASKS:
                raise InputError(f"tasks: {value!r} is unknown{did_you_mean(value, TASKS)}")
        return values

    @model_validator(mode="after")
    def _check_framework(self) -> "TrialConfig":
        FRAMEWORKS[self.framework.name].check(self.tasks, **self.framework.parameters)
        return self

    def plain(self) -> dict[str, Any]:
        """Return the config as nested dicts, lists, numbers and strings, which JSON can hold."""
        return self.model_dump(mode="json", serialize_as_any=True)


def read_config(plain: Mapping[str, Any]) -> TrialConfig:
    """Convert nested mappings to the typed config of a trial, after checking every key and value.

    Args:
        plain: Settings as nested mappings, lists, numbers and strings. A renamed key may have its
            present name or the name that earlier versions of the program used.

    Raises:
        InputError: If a key is unknown or missing or a value is refused; the message names the
            first such key with dots, such as ``encoder.layers``.
    """
    return validate_as(TrialConfig, with_present_names(plain))
