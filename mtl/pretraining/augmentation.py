"""Images in the order, the cuts and the noise of an epoch: all follow from the seed, the epoch and
the image alone, whoever reads it.

Shapes: N images, B of a batch, S pixels a side, L patches of an image.
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


def epoch_batches(
    images: int, batch_images: int, seed: int, epoch: int
) -> Int64[np.ndarray, "steps B"]:
    """Which images each step of an epoch sees: all once, in random order, but for the last few
    that fill no batch.

    Raises:
        InputError: There are fewer than one batch.
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
class Read:
    """Images ready to be trained on.

    Attributes:
        pixels: RGB, uint8.
        valid: Which could be read. In place of the others these are shown again, in turn, so that
            a batch norm sees nothing else; where none could be read they are black.
        broken: Why not, and which, of each that could not.
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
) -> Read:
    """These images, cut out, resized (bicubic) and mirrored at random."""
    bicubic = InterpolationMode.BICUBIC
    cut = v2.RandomResizedCrop(size, augmentation.crop_scale, interpolation=bicubic)
    mirror = v2.RandomHorizontalFlip(augmentation.flip)

    def change(image: Image, row: int) -> Image:
        # torchvision draws from torch's global generator; torch.manual_seed is the GPUs' too, which
        # takes as long as all the rest.
        torch.default_generator.manual_seed(_seed(seed, epoch, row))
        changed: Image = mirror(cut(image))
        return changed

    with torch.random.fork_rng(devices=[]):
        return _read(images, rows, size, change)


def read_whole(images: Images, rows: Rows, size: int, resampling: int) -> Read:
    """These images whole, resized as their backbone does it (``Backbone.transform``)."""
    whole = (size, size)

    def change(image: Image, row: int) -> Image:
        return image if image.size == whole else image.resize(whole, resampling)

    return _read(images, rows, size, change)


def _read(images: Images, rows: Rows, size: int, change: Callable[[Image, int], Image]) -> Read:
    pixels = np.zeros((len(rows), size, size, 3), np.uint8)
    valid = np.zeros(len(rows), bool)
    broken = []
    for place, row in enumerate(rows):
        try:
            image = images.read(int(row))
        except BrokenImage as error:
            broken.append(str(error))
            continue
        pixels[place], valid[place] = np.asarray(change(image, int(row))), True
    if valid.any():
        pixels[~valid] = pixels[np.resize(np.flatnonzero(valid), len(broken))]
    return Read(pixels, valid, tuple(broken))


def patch_noise(rows: Rows, patches: int, seed: int, epoch: int) -> Float32[np.ndarray, "B L"]:
    """What decides which patches of these images are removed."""
    noise = np.empty((len(rows), patches), np.float32)
    for one, row in zip(noise, rows, strict=True):
        np.random.default_rng([seed, epoch, int(row), 1]).random(out=one, dtype=np.float32)
    return noise


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
