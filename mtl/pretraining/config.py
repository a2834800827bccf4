"""Config classes of a backbone's pretraining: frozen, typed and strict.

A config is composed from ``sweeps/configs/pretrain_mae.yaml`` or ``pretrain_supervised.yaml``.
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
"""Number greater than 0 and at most 1."""


class Augmentation(Strict):
    """Random changes of an image each time it is trained on.

    Attributes:
        crop_scale: Smallest and largest share of the image's area in a random crop. Crops have
            aspect ratios from 3/4 to 4/3 and are resized. With ``[1, 1]`` the crop is the whole
            image, if its own aspect ratio is in this range.
        flip: Probability that the image is mirrored horizontally.
    """

    crop_scale: tuple[Share, Share]
    flip: Annotated[float, Field(ge=0, le=1)]

    @field_validator("crop_scale")
    @classmethod
    def _check_crop_scale(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise InputError(
                f"augmentation.crop_scale = {list(scale)} is refused: the least comes first"
            )
        return scale


class PretrainOptim(Strict):
    """Settings of AdamW and of the learning-rate schedule, which changes the rate at every step.

    Attributes:
        base_lr: Peak learning rate for batches of 256 images; the peak learning rate of a training
            is proportional to its ``batch_images``.
        weight_decay: Weight decay of matrices and tokens; biases and norms have none.
        betas: Decay rates of AdamW's two moments.
        warmup_epochs: Epochs of linear warm-up; may have a fraction.
        decay: Course of the learning rate after warm-up: ``cosine`` to 0, or ``constant``.
        gradient_clip: Largest norm of the gradient; 0 for no limit.
    """

    base_lr: AboveZero
    weight_decay: NonNegative
    betas: tuple[Probability, Probability]
    warmup_epochs: NonNegative
    decay: Literal["cosine", "constant"]
    gradient_clip: NonNegative


class PretrainTraining(Strict):
    """Length, batch size, seed, device and precision of a pretraining.

    Attributes:
        epochs: Epochs of the whole training.
        batch_images: Number of images of a step, over all DDP workers together.
        seed: Seed of initial weights, image order, crops, noise and dropout.
        checkpoint_epochs: Epochs from one checkpoint to the next.
        device: Device of the model; ``auto`` is CUDA if it is available, else the CPU.
        precision: Precision of the forward pass; ``auto`` is bfloat16 autocast on CUDA devices that
            support it, else float32.
    """

    epochs: Positive
    batch_images: Positive
    seed: Annotated[int, Field(ge=0)]
    checkpoint_epochs: Positive
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float64", "float32", "bfloat16", "float16"]


class PretrainConfig(Strict):
    """Config keys that both methods of pretraining have (masked autoencoder and supervised).

    Attributes:
        backbone: Name of the backbone in ``mtl.features.backbones.BACKBONES``, or ``timm:`` and the
            name of a model of timm.
        weights: Initial weights: ``random``, ``hub`` or the path of a file.
        size: Side of an image in pixels; None for the backbone's default.
        augmentation: Random changes of the images.
        optim: Optimizer and learning-rate schedule.
        training: Length, batch size, seed, device and precision.
    """

    backbone: str
    weights: str
    size: Positive | None
    augmentation: Augmentation
    optim: PretrainOptim
    training: PretrainTraining

    @model_validator(mode="after")
    def _check_warmup(self) -> "PretrainConfig":
        warmup, epochs = self.optim.warmup_epochs, self.training.epochs
        if warmup >= epochs:
            raise InputError(
                f"optim.warmup_epochs = {warmup:g} is refused: of training.epochs = {epochs} it "
                f"leaves none at the full learning rate; lower it, to {epochs / 20:g} for example"
            )
        return self


class MAEConfig(PretrainConfig):
    """Config of a masked autoencoder's pretraining.

    Attributes:
        mask_ratio: Share of the patches that are masked.
        normalise_pixels: True if the decoder predicts the pixels of each patch after subtraction of
            their mean and division by their standard deviation.
        picture_epochs: Epochs from one picture of reconstructed faces to the next.
    """

    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    normalise_pixels: bool
    picture_epochs: Positive


class SupervisedConfig(PretrainConfig):
    """Config of a supervised pretraining: a backbone with one linear head for each task.

    Attributes:
        tasks: Tasks to train.
        dropout: Dropout probability of the features before the heads.
        loss: Loss of each task.
        balancing: Method that combines the tasks' losses or gradients.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    dropout: Probability
    loss: LossConfig
    balancing: Annotated[Component, component_of("balancing", BALANCINGS)]

    @field_validator("tasks")
    @classmethod
    def _check_tasks(cls, tasks: tuple[str, ...], info: Any) -> tuple[str, ...]:
        if len(set(tasks)) < len(tasks):
            raise InputError(f"tasks = {list(tasks)} names one twice: name each once")
        for task in tasks:
            if task not in TASKS:
                raise InputError(f"tasks: {task!r} is unknown{did_you_mean(task, TASKS)}")
        return tasks
