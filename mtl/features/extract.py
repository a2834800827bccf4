"""Extraction of features from a range of images into one Parquet file of a feature set.

Threads read and transform the next images while the backbone runs.

Shapes: n images of S x S pixels, F features.
"""

import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float16, UInt8

from mtl.features.face_crops import BrokenImage, CropFrames, Images
from mtl.optimisation.device import autocast

MAX_BATCHES_AHEAD = 2
"""Maximum number of batches that are read and transformed before the model needs them."""
FAILED_KEY = b"failed_images"
"""Key of the list of failed images in the metadata of a Parquet file of features."""

Failure = tuple[str, str]
"""Path of an image below the image folder, and the reason why the image has no features."""


class FeaturePart(NamedTuple):
    """Parquet file with the features of some images, which is one of the files of a feature set.

    Attributes:
        content: Bytes of the file, with the columns ``video``, ``frame`` and ``feature`` (float16);
            the failed images are listed in its metadata.
        failed: Number of images that failed.
    """

    content: bytes
    failed: int


class Extractor:
    """Backbone that computes features, with threads that read and resize the images for it.

    Args:
        backbone: A ``mtl.features.backbones.Backbone`` in evaluation mode, on its device.
        batch: Number of images in a batch.
        threads: Number of threads that read and resize images.
        precision: Data type of autocast; float32 turns autocast off.
    """

    def __init__(
        self, backbone: Any, batch: int, threads: int, precision: torch.dtype = torch.float32
    ) -> None:
        self.backbone, self.batch, self.precision = backbone, batch, precision
        self.device = next(iter(backbone.state_dict().values())).device
        self.threads = ThreadPoolExecutor(threads)

    def part(self, frames: CropFrames, rows: range) -> FeaturePart:
        """Compute the features of some frames and return them as one file of the feature set.

        An image that cannot be read, or whose features are not finite in float16, is listed as
        failed and has no row.

        Args:
            frames: Frames with their images.
            rows: Indices into ``frames``.

        Raises:
            InputError: The folder of the images does not exist or cannot be reached.
        """
        kept: list[int] = []
        values = [np.empty((0, self.backbone.width), np.float16)]
        failed: list[Failure] = []
        for batch, pixels, broken in self._read(frames.images, rows):
            failed += broken
            if not batch:
                continue
            features = self._features(pixels)
            finite = np.isfinite(features).all(1)
            kept += [row for row, is_finite in zip(batch, finite, strict=True) if is_finite]
            values.append(features[finite])
            for i in np.flatnonzero(~finite):
                failed.append((frames.images.file(batch[i]), _non_finite_reason(features[i])))
        return FeaturePart(_parquet(frames, kept, np.concatenate(values), failed), len(failed))

    def _read(
        self, images: Images, rows: range
    ) -> Iterator[tuple[list[int], UInt8[np.ndarray, "n S S 3"], list[Failure]]]:
        """Yield for each batch the indices and pixels of the readable images, and the failures.

        Threads read ahead.
        """
        starts = deque(range(0, len(rows), self.batch))
        waiting: deque[list[Future[Any]]] = deque()
        try:
            while starts or waiting:
                while starts and len(waiting) <= MAX_BATCHES_AHEAD:
                    start = starts.popleft()
                    batch = rows[start : start + self.batch]
                    waiting.append([self.threads.submit(self._pixels, images, i) for i in batch])
                yield _gather([future.result() for future in waiting.popleft()])
        finally:
            for future in (future for futures in waiting for future in futures):
                future.cancel()

    def _pixels(self, images: Images, row: int) -> tuple[int, np.ndarray | None, Failure | None]:
        try:
            return row, self.backbone.transform(images.read(row)), None
        except BrokenImage as broken:
            return row, None, (broken.file, broken.reason)

    def _features(self, pixels: UInt8[np.ndarray, "n S S 3"]) -> Float16[np.ndarray, "n F"]:
        with torch.inference_mode(), autocast(self.device, self.precision):
            features = self.backbone(torch.from_numpy(pixels).to(self.device))
        # Values beyond float16 become inf, and their images are listed as failed.
        with np.errstate(over="ignore"):
            return np.asarray(features.float().cpu().numpy().astype(np.float16))


def _gather(
    read: list[tuple[int, np.ndarray | None, Failure | None]],
) -> tuple[list[int], np.ndarray, list[Failure]]:
    images = [(row, pixels) for row, pixels, _ in read if pixels is not None]
    failed = [failure for _, _, failure in read if failure is not None]
    stacked = np.stack([pixels for _, pixels in images]) if images else np.empty((0, 0, 0, 3), "u1")
    return [row for row, _ in images], stacked, failed


def _non_finite_reason(values: np.ndarray) -> str:
    """Return the reason why an image failed: a text that names its first non-finite feature."""
    bad = int(np.argmin(np.isfinite(values)))
    return f"feature {bad + 1} of {len(values)} is {values[bad]} in float16"


def _parquet(
    frames: CropFrames, rows: list[int], values: np.ndarray, failed: list[Failure]
) -> bytes:
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    videos = pa.array([frames.names[i] for i in frames.video[rows]], pa.string())
    table = pa.table(
        [videos, pa.array(frames.frame[rows], pa.int32()), lists],
        names=["video", "frame", "feature"],
        metadata={FAILED_KEY: json.dumps(failed)},
    )
    memory = pa.BufferOutputStream()
    pq.write_table(table, memory, compression="zstd", use_dictionary=["video"])
    return bytes(memory.getvalue())


def read_failed(part: str | Path) -> list[Failure]:
    """Return the path and the reason of each image that failed in the extraction of a feature file.

    Args:
        part: Parquet file of a feature set.

    Raises:
        Exception: Any error of Arrow if the file is no file of a feature set.
    """
    metadata = pq.read_schema(part).metadata or {}
    return [(file, reason) for file, reason in json.loads(metadata[FAILED_KEY])]
