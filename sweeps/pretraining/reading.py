"""Batches of images, which Ray Data tasks read and augment while earlier batches are trained on.

The tasks import this module, so it must import neither timm nor the models.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from jaxtyping import Int64
from ray.data import DataContext, from_items
from torch import Tensor

from mtl.features.face_crops import Images
from mtl.pretraining.augmentation import patch_noise, read_augmented, read_resized
from mtl.pretraining.config import Augmentation
from mtl.pretraining.image_labels import LabelledImages
from sweeps.data.ray_data import set_up_ray_data, unwrap_input_error

Arrays = dict[str, np.ndarray]
ImageBatch = dict[str, Tensor]


@dataclass(frozen=True)
class ReadSettings:
    """Settings for reading and augmenting images.

    Attributes:
        size: Side S of the images in pixels.
        resampling: PIL's resampling filter for images without augmentation.
        augmentation: Random changes of training images.
        seed: Seed of the random crops, mirroring and noise.
        patches: Number L of patches of an image. Each gets a random number (noise), by which a
            masked autoencoder chooses the masked patches; 0 for no noise.
    """

    size: int
    resampling: int
    augmentation: Augmentation
    seed: int
    patches: int = 0

    def read(
        self, images: Images, labels: LabelledImages | None, rows: np.ndarray, epoch: int | None
    ) -> Arrays:
        """Read the images of one batch, with their labels and noise.

        Args:
            images: All images.
            labels: Labels of all images; None if there are none.
            rows: Indices of the B images of the batch.
            epoch: Number of the epoch, part of the seed of all random changes; None to read the
                images without augmentation.

        Returns:
            Arrays by name: ``pixels`` (B, S, S, 3), ``valid`` (B,; False where the image could not
            be read), ``noise`` (B, L) if there are L patches, ``labels`` and ``mask`` (B, 15) if
            there are labels, and ``broken`` (B,; ``path: reason`` for each unreadable image, then
            empty strings).
        """
        if epoch is None:
            read = read_resized(images, rows, self.size, self.resampling)
        else:
            read = read_augmented(images, rows, self.size, self.augmentation, self.seed, epoch)
        broken = np.full(len(rows), "", dtype=object)
        broken[: len(read.broken)] = read.broken
        arrays = {"pixels": read.pixels, "valid": read.valid, "broken": broken}
        if self.patches:
            arrays["noise"] = patch_noise(rows, self.patches, self.seed, epoch or 0)
        if labels is not None:
            arrays |= {"labels": labels.values[rows], "mask": labels.mask[rows]}
        return arrays


class Reader:
    """Reads the images of one worker with Ray Data tasks.

    Args:
        images: All images.
        labels: Labels of all images; None if there are none.
        settings: Settings for reading and augmenting images.
        tasks: Number of reading tasks that run at the same time.
        cpus: CPUs that each reading task reserves.

    Attributes:
        broken: ``path: reason`` for each image that could not be read; the caller may clear it.
    """

    def __init__(
        self,
        images: Images,
        labels: LabelledImages | None,
        settings: ReadSettings,
        tasks: int,
        cpus: float,
    ) -> None:
        set_up_ray_data()
        DataContext.get_current().execution_options.preserve_order = True
        self._shared = ray.put((images, labels, settings))
        self._tasks, self._cpus = tasks, cpus
        self.broken: list[str] = []

    def stream(
        self, steps: Sequence[Int64[np.ndarray, " b"]], epoch: int | None
    ) -> Iterator[ImageBatch]:
        """Yield the batch of images of each training step, in order, as a dict of tensors.

        Args:
            steps: For each step, the indices of its images.
            epoch: Number of the epoch, part of the seed of all random changes; None to read the
                images without augmentation.

        Raises:
            InputError: If the folder of the images cannot be reached.
        """
        if not steps:
            return
        shared, plan = self._shared, ray.put(list(steps))

        def load(batch: Mapping[str, np.ndarray]) -> Arrays:
            images, labels, settings = ray.get(shared)
            rows = ray.get(plan)[int(batch["step"][0])]
            arrays: Arrays = settings.read(images, labels, rows, epoch)
            return arrays

        # The tasks of ray.data.range() would need a CPU each, also if training holds all CPUs.
        items = [{"step": step} for step in range(len(steps))]
        loaded = from_items(items, override_num_blocks=len(items)).map_batches(
            load, batch_size=1, num_cpus=self._cpus, concurrency=self._tasks
        )
        blocks: Any = loaded.iter_batches(batch_size=None, batch_format="numpy")
        try:
            for arrays in blocks:
                self.broken += [image for image in arrays.pop("broken").tolist() if image]
                # Copied, because torch warns about Ray's read-only arrays.
                yield {name: torch.tensor(array) for name, array in arrays.items()}
        except Exception as error:
            raise unwrap_input_error(error) from None
