"""Feature extraction with a pool of Ray actors, each of which holds a copy of the backbone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray
import torch
from ray import ObjectRef

from mtl.features.backbones import Backbone, make_backbone
from mtl.features.extract import Extractor
from mtl.features.face_crops import CropFrames
from mtl.optimisation.device import choose_device, choose_precision
from sweeps.data.actor_pool import map_in_actors


@dataclass(frozen=True)
class ExtractionPlan:
    """Settings of a feature extraction.

    Attributes:
        backbone: Name of the backbone.
        size: Side of the backbone's input image in pixels.
        batch: Number of images of one batch; a batch holds images of one chunk only.
        chunk: Number of frames of one chunk; the features of a chunk are written to one file.
        device: ``cpu`` or ``cuda``.
        precision: ``auto`` or the name of a torch type, such as ``bfloat16``.
    """

    backbone: str
    size: int
    batch: int
    chunk: int
    device: str
    precision: str

    def rows(self, chunk: int, frames: int) -> range:
        """Return the indices of the frames of one chunk (frames of one output file).

        Args:
            chunk: Number of the chunk, from 0.
            frames: Number of all frames of the extraction.
        """
        return range(chunk * self.chunk, min((chunk + 1) * self.chunk, frames))


class ExtractionActor:
    """Ray actor that extracts the features of one chunk (frames of one output file) after another.

    Args:
        shared: References to the face crops and to the backbone's weights in Ray's object store.
        plan: Settings of the extraction.
        cpus: Number of torch threads, and of threads that read images.
    """

    def __init__(self, shared: tuple[ObjectRef[Any], ...], plan: ExtractionPlan, cpus: int) -> None:
        torch.set_num_threads(cpus)
        self.frames: CropFrames
        self.frames, weights = ray.get(list(shared))
        self.plan = plan
        backbone = make_backbone(plan.backbone, plan.size)
        # Copied, because torch warns of arrays in the object store, which are read-only.
        backbone.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
        device = choose_device(plan.device)
        precision = choose_precision(plan.precision, device)
        self.extractor = Extractor(backbone.eval().to(device), plan.batch, cpus, precision)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """Extract the features of one chunk of frames.

        Args:
            batch: Number of the chunk under the key ``chunk``, an array of length 1.

        Returns:
            Table with one row and the columns ``chunk`` (its number), ``failed`` (number of images
            without features) and ``content`` (bytes of the Parquet file of features).
        """
        chunk = int(batch["chunk"][0])
        part = self.extractor.part(self.frames, self.plan.rows(chunk, len(self.frames)))
        content = pa.array([part.content], pa.large_binary())
        return pa.table([[chunk], [part.failed], content], names=["chunk", "failed", "content"])


class FinishedPart(NamedTuple):
    """Extracted features of one chunk of frames, as the bytes of one Parquet file.

    Attributes:
        chunk: Number of the chunk.
        failed: Number of images without features.
        content: Bytes of the Parquet file.
    """

    chunk: int
    failed: int
    content: bytes


def extract_chunks(
    frames: CropFrames,
    backbone: Backbone,
    plan: ExtractionPlan,
    chunks: Sequence[int],
    workers: int,
    cpus: int,
    gpus: float,
) -> Iterator[FinishedPart]:
    """Extract chunks of frames with Ray actors; yield the features of each chunk when ready.

    The chunks are yielded in the order in which they become ready.

    Args:
        frames: All frames of the extraction, with their images.
        backbone: Backbone that computes the features.
        plan: Settings of the extraction.
        chunks: Numbers of the chunks to extract.
        workers: Number of actors.
        cpus: CPUs of each actor.
        gpus: GPUs of each actor.

    Raises:
        InputError: If a worker cannot reach the images.
    """
    weights = {key: tensor.cpu().numpy() for key, tensor in backbone.state_dict().items()}
    items = [{"chunk": chunk} for chunk in chunks]
    tables = map_in_actors(
        ExtractionActor, (frames, weights), (plan, cpus), items, workers, cpus, gpus, ordered=False
    )
    for table in tables:
        for row in table.to_pylist():
            yield FinishedPart(**row)
