"""A chunk of frames becomes one part of a feature set: read ahead of the model, whole, checked."""

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
"""So many batches at most wait for the model, read and transformed."""
FAILED_KEY = b"failed_images"

Failure = tuple[str, str]
"""An image and why it has no features."""


class FeaturePart(NamedTuple):
    """What one chunk became.

    Attributes:
        content: A Parquet file of ``video, frame, feature``, float16; it says itself what failed.
        failed: How many images did.
    """

    content: bytes
    failed: int


class Extractor:
    """A backbone with threads that read images for it.

    Args:
        backbone: In eval mode, on its device; a ``mtl.features.backbones.Backbone``.
        batch: Images that run through it at once.
        threads: That read and transform.
        precision: Of autocast; float32 is none.
    """

    def __init__(
        self, backbone: Any, batch: int, threads: int, precision: torch.dtype = torch.float32
    ) -> None:
        self.backbone, self.batch, self.precision = backbone, batch, precision
        self.device = next(iter(backbone.state_dict().values())).device
        self.threads = ThreadPoolExecutor(threads)

    def part(self, frames: CropFrames, rows: range) -> FeaturePart:
        """The features of some rows of ``frames``. An image that cannot be had, or whose features
        are not finite in float16, is listed instead.

        Raises:
            InputError: The images' folder is not there, or cannot be reached (network ...).
        """
        kept: list[int] = []
        values = [np.empty((0, self.backbone.width), np.float16)]
        failed: list[Failure] = []
        for batch, pixels, broken in self._read(frames.images, rows):
            failed += broken
            if not batch:
                continue
            found = self._features(pixels)
            finite = np.isfinite(found).all(1)
            kept += [row for row, fine in zip(batch, finite, strict=True) if fine]
            values.append(found[finite])
            for i in np.flatnonzero(~finite):
                failed.append((frames.images.file(batch[i]), _not_finite(found[i])))
        return FeaturePart(_parquet(frames, kept, np.concatenate(values), failed), len(failed))

    def _read(
        self, images: Images, rows: range
    ) -> Iterator[tuple[list[int], UInt8[np.ndarray, "n S S 3"], list[Failure]]]:
        """The batches in order, and what is broken in each: threads are at the ones to come."""
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
            found = self.backbone(torch.from_numpy(pixels).to(self.device))
        with np.errstate(over="ignore"):  # beyond float16 turns inf, and is then listed
            return np.asarray(found.float().cpu().numpy().astype(np.float16))


def _gather(
    read: list[tuple[int, np.ndarray | None, Failure | None]],
) -> tuple[list[int], np.ndarray, list[Failure]]:
    images = [(row, pixels) for row, pixels, _ in read if pixels is not None]
    failed = [failure for _, _, failure in read if failure is not None]
    stacked = np.stack([pixels for _, pixels in images]) if images else np.empty((0, 0, 0, 3), "u1")
    return [row for row, _ in images], stacked, failed


def _not_finite(values: np.ndarray) -> str:
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
    """The images of a part that failed, and why. Raises what Arrow does where it is no part."""
    metadata = pq.read_schema(part).metadata or {}
    return [(file, reason) for file, reason in json.loads(metadata[FAILED_KEY])]
