"""Batches of images, read and augmented by Ray Data ahead of the steps.

A reading task imports this module: nothing here imports timm or the models.
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
class How:
    """How images are read.

    Attributes:
        size: Side in pixels.
        resampling: PIL's, where an image is shown whole.
        augmentation: Where it is not.
        seed: Of cuts and noise.
        patches: Numbers of noise for each image, if any.
    """

    size: int
    resampling: int
    augmentation: Augmentation
    seed: int
    patches: int = 0

    def read(
        self, images: Images, labels: LabelledImages | None, rows: np.ndarray, epoch: int | None
    ) -> Arrays:
        """Return an ``ImageBatch`` as arrays, with ``broken``, (B,) of str."""
        if epoch is None:
            found = read_resized(images, rows, self.size, self.resampling)
        else:
            found = read_augmented(images, rows, self.size, self.augmentation, self.seed, epoch)
        broken = np.full(len(rows), "", dtype=object)
        broken[: len(found.broken)] = found.broken
        arrays = {"pixels": found.pixels, "valid": found.valid, "broken": broken}
        if self.patches:
            arrays["noise"] = patch_noise(rows, self.patches, self.seed, epoch or 0)
        if labels is not None:
            arrays |= {"labels": labels.values[rows], "mask": labels.mask[rows]}
        return arrays


class Reader:
    """Reads the images of one worker.

    Args:
        images: All.
        labels: Theirs, if there are any.
        how: They are read.
        tasks: At a time.
        cpus: That one holds.

    Attributes:
        broken: Images that could not be read since this was last cleared, each with its reason.
    """

    def __init__(
        self, images: Images, labels: LabelledImages | None, how: How, tasks: int, cpus: float
    ) -> None:
        set_up_ray_data()
        DataContext.get_current().execution_options.preserve_order = True
        self._shared = ray.put((images, labels, how))
        self._tasks, self._cpus = tasks, cpus
        self.broken: list[str] = []

    def stream(
        self, steps: Sequence[Int64[np.ndarray, " b"]], epoch: int | None
    ) -> Iterator[ImageBatch]:
        """Batches of these images, in order.

        Args:
            steps: The images of each batch.
            epoch: Whose cuts and noise they are given; None shows them whole.

        Raises:
            InputError: An image cannot be reached.
        """
        if not steps:
            return
        shared, plan = self._shared, ray.put(list(steps))

        def load(batch: Mapping[str, np.ndarray]) -> Arrays:
            images, labels, how = ray.get(shared)
            arrays: Arrays = how.read(images, labels, ray.get(plan)[int(batch["step"][0])], epoch)
            return arrays

        # No range(), whose own tasks would ask for a CPU each, also where training holds all.
        items = [{"step": step} for step in range(len(steps))]
        loaded = from_items(items, override_num_blocks=len(items)).map_batches(
            load, batch_size=1, num_cpus=self._cpus, concurrency=self._tasks
        )
        blocks: Any = loaded.iter_batches(batch_size=None, batch_format="numpy")
        try:
            for arrays in blocks:
                self.broken += [why for why in arrays.pop("broken").tolist() if why]
                # Ray's arrays are read-only, and torch warns of such.
                yield {name: torch.tensor(array) for name, array in arrays.items()}
        except Exception as error:
            raise unwrap_input_error(error) from None
