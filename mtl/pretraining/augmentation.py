"""Images of a pretraining epoch: their order, random augmentation and random numbers for masks.

All three depend on the seed, the epoch and the image only, not on the process that reads the image.

Shapes: N images, B images of a batch, S pixels a side, L patches of an image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from PIL.Image import Image
from torchvision.transforms import InterpolationMode, v2

from mtl.errors import InputError
from mtl.features.face_crops import BrokenImage, Images
from mtl.pretraining.config import Augmentation

Rows = Sequence[int] | Int64[np.ndarray, " B"]
"""Indices of the images to read, in the list of all images of the training."""


def epoch_batches(
    images: int, batch_images: int, seed: int, epoch: int
) -> Int64[np.ndarray, "steps B"]:
    """Return the indices of the images of each training step in an epoch, in random order.

    The result has the shape (steps, images of a batch).

    Every image occurs at most once; the last images, which fill no batch, are left out.

    Args:
        images: Number of images.
        batch_images: Images of a batch.
        seed: Seed of the training.
        epoch: Number of the epoch, from 1.

    Raises:
        InputError: If there are fewer images than a batch needs.
    """
    steps = images // batch_images
    if not steps:
        raise InputError(
            f"training.batch_images = {batch_images} is refused: there are {images} images; lower "
            "it"
        )
    order = np.random.default_rng([seed, epoch]).permutation(images)
    return order[: steps * batch_images].reshape(steps, batch_images)


@dataclass(frozen=True)
class ReadImages:
    """Pixels of a batch of images, and the images that could not be read.

    Attributes:
        pixels: RGB pixels, shape (images, side, side, 3). An image that cannot be read is replaced
            by a readable image of the batch, so that the statistics of batch norms come from real
            images only; if no image can be read, all are black.
        valid: True where the image could be read.
        broken: One text for each image that could not be read: its path and the reason.
    """

    pixels: UInt8[np.ndarray, "B S S 3"]
    valid: Bool[np.ndarray, " B"]
    broken: tuple[str, ...]


def read_augmented(
    images: Images,
    rows: Rows,
    size: int,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
) -> ReadImages:
    """Read images with random crops, resized by bicubic interpolation, and random mirroring.

    Args:
        images: All images.
        rows: Indices of the images to read.
        size: Side S of the result in pixels.
        augmentation: Distribution of the crops and probability of mirroring.
        seed: Seed of the training.
        epoch: Number of the epoch, from 1.

    Raises:
        InputError: If the folder of the images cannot be reached.
    """
    bicubic = InterpolationMode.BICUBIC
    crop = v2.RandomResizedCrop(size, augmentation.crop_scale, interpolation=bicubic)
    mirror = v2.RandomHorizontalFlip(augmentation.flip)

    def augment(image: Image, row: int) -> Image:
        # torchvision draws from torch's global generator. torch.manual_seed would seed the GPUs'
        # generators too, which takes as long as everything else here.
        torch.default_generator.manual_seed(_seed(seed, epoch, row))
        augmented: Image = mirror(crop(image))
        return augmented

    with torch.random.fork_rng(devices=[]):
        return _read(images, rows, size, augment)


def read_resized(images: Images, rows: Rows, size: int, resampling: int) -> ReadImages:
    """Read images without augmentation, resized to a square with a filter of PIL.

    Args:
        images: All images.
        rows: Indices of the images to read.
        size: Side S of the result in pixels.
        resampling: PIL's resampling filter.

    Raises:
        InputError: If the folder of the images cannot be reached.
    """
    shape = (size, size)

    def resize(image: Image, row: int) -> Image:
        return image if image.size == shape else image.resize(shape, resampling)

    return _read(images, rows, size, resize)


def _read(
    images: Images, rows: Rows, size: int, transform: Callable[[Image, int], Image]
) -> ReadImages:
    pixels = np.zeros((len(rows), size, size, 3), np.uint8)
    valid = np.zeros(len(rows), bool)
    broken = []
    for position, row in enumerate(rows):
        try:
            image = images.read(int(row))
        except BrokenImage as error:
            broken.append(str(error))
            continue
        pixels[position], valid[position] = np.asarray(transform(image, int(row))), True
    if valid.any():
        pixels[~valid] = pixels[np.resize(np.flatnonzero(valid), len(broken))]
    return ReadImages(pixels, valid, tuple(broken))


def patch_noise(rows: Rows, patches: int, seed: int, epoch: int) -> Float32[np.ndarray, "B L"]:
    """Return a random number in [0, 1) for each patch, by which patches are masked.

    The patches with the largest numbers of an image are masked. The result has the shape (images,
    patches).

    Args:
        rows: Indices of the images.
        patches: Number of patches of an image.
        seed: Seed of the training.
        epoch: Number of the epoch, from 1; 0 for the pictures of reconstructed faces.
    """
    noise = np.empty((len(rows), patches), np.float32)
    for values, row in zip(noise, rows, strict=True):
        np.random.default_rng([seed, epoch, int(row), 1]).random(out=values, dtype=np.float32)
    return noise


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
