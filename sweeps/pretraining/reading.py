"""Batches of images, read and augmented by Ray Data tasks ahead of the training steps.

Reading tasks import this module, so it imports neither timm nor the models.
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
    """Settings of image reading.

    Attributes:
        size: Side S of the images in pixels.
        resampling: PIL's resampling filter for images without augmentation.
        augmentation: Random changes of training images.
        seed: Seed of crops, mirroring and noise.
        patches: Patches L of an image that need a random number each; 0 for no noise.
    """

    size: int
    resampling: int
    augmentation: Augmentation
    seed: int
    patches: int = 0

    def read(
        self, images: Images, labels: LabelledImages | None, rows: np.ndarray, epoch: int | None
    ) -> Arrays:
        """Read one batch: the arrays of an ``ImageBatch``, and ``broken``.

        Args:
            images: All images.
            labels: Labels of the images; None without labels.
            rows: Indices of the B images of the batch.
            epoch: Epoch that crops, mirroring and noise follow from; None for no augmentation.

        Returns:
            Arrays of the ``ImageBatch`` by name, and ``broken`` (B,): path and reason of each image
            that could not be read, then empty strings.
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
    """Reader of one worker's images.

    Args:
        images: All images.
        labels: Labels of the images; None without labels.
        settings: Settings of image reading.
        tasks: Number of reading tasks that run at the same time.
        cpus: CPUs of one reading task.

    Attributes:
        broken: Path and reason of each image that could not be read since the list was cleared.
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
        """Yield the batch of each step, in order.

        Args:
            steps: Indices of the images of each step.
            epoch: Epoch that crops, mirroring and noise follow from; None for no augmentation.

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
