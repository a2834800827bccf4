"""What a pretraining is, beside its images: frozen, typed, strict.

Composed from ``sweeps/configs/pretrain_mae.yaml`` or ``pretrain_supervised.yaml``.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mtl.errors import InputError
from mtl.losses.balancing import BALANCINGS
from mtl.losses.config import LossConfig
from mtl.strict import (
    AboveZero,
    Component,
    NonNegative,
    Positive,
    Probability,
    Strict,
    component_of,
    did_you_mean,
)
from mtl.tasks import TASKS

Share = Annotated[float, Field(gt=0, le=1)]


class Augmentation(Strict):
    """How a picture is changed each time it is shown.

    Attributes:
        crop_scale: Least and largest share of its area that is cut out, at ratios of 3/4 to 4/3,
            and resized; ``[1, 1]`` shows all of a picture that is itself of such a ratio.
        flip: How often it is mirrored.
    """

    crop_scale: tuple[Share, Share]
    flip: Annotated[float, Field(ge=0, le=1)]

    @field_validator("crop_scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise InputError(
                f"augmentation.crop_scale = {list(scale)} is refused: the least comes first"
            )
        return scale


class PretrainOptim(Strict):
    """AdamW and its schedule, taken per step.

    Attributes:
        base_lr: The learning rate of a batch of 256 images; it grows with the batch.
        betas: Decays of the two moments.
        warmup_epochs: Epochs (may be broken) of linear warm-up.
        decay: ``cosine`` to 0, or ``constant``.
        gradient_clip: Largest norm of the gradient; 0 for none.
    """

    base_lr: AboveZero
    weight_decay: NonNegative
    betas: tuple[Probability, Probability]
    warmup_epochs: NonNegative
    decay: Literal["cosine", "constant"]
    gradient_clip: NonNegative


class PretrainTraining(Strict):
    """How long, from which seed, where.

    Attributes:
        batch_images: Of a step, over all workers together.
        checkpoint_epochs: From one checkpoint to the next.
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.
        precision: ``auto`` is bfloat16 autocast on CUDA devices that have it, else float32.
    """

    epochs: Positive
    batch_images: Positive
    seed: Annotated[int, Field(ge=0)]
    checkpoint_epochs: Positive
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float64", "float32", "bfloat16", "float16"]


class PretrainConfig(Strict):
    """What both methods have.

    Attributes:
        backbone: Its name (``mtl.features.backbones``).
        weights: What it starts from: ``random``, ``hub`` or a file.
        size: Side of an image in pixels; the backbone's own if None.
    """

    backbone: str
    weights: str
    size: Positive | None
    augmentation: Augmentation
    optim: PretrainOptim
    training: PretrainTraining

    @model_validator(mode="after")
    def _ends_warm(self) -> "PretrainConfig":
        warmup, epochs = self.optim.warmup_epochs, self.training.epochs
        if warmup >= epochs:
            raise InputError(
                f"optim.warmup_epochs = {warmup:g} is refused: of training.epochs = {epochs} it "
                f"leaves none at the full learning rate; lower it, to {epochs / 20:g} for example"
            )
        return self


class MAEConfig(PretrainConfig):
    """A masked autoencoder's.

    Attributes:
        mask_ratio: Share of the patches that is removed.
        normalise_pixels: Whether a patch's pixels are told less their mean, over their deviation.
        picture_epochs: From one picture of reconstructed faces to the next.
    """

    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    normalise_pixels: bool
    picture_epochs: Positive


class SupervisedConfig(PretrainConfig):
    """A backbone's on labelled images, with one linear head for each task.

    Attributes:
        dropout: Before the heads.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    dropout: Probability
    loss: LossConfig
    balancing: Annotated[Component, component_of("balancing", BALANCINGS)]

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: tuple[str, ...], info: Any) -> tuple[str, ...]:
        if len(set(tasks)) < len(tasks):
            raise InputError(f"tasks = {list(tasks)} names one twice: name each once")
        for task in tasks:
            if task not in TASKS:
                raise InputError(f"tasks: {task!r} is unknown{did_you_mean(task, TASKS)}")
        return tasks
