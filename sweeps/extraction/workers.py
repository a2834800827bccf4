"""Chunks of frames -> Ray Data -> a pool of actors that each hold the backbone -> parts."""

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
    """How frames are extracted.

    Attributes:
        backbone: Its name.
        size: Of its input, in pixels.
        batch: Images at once, counted from the start of each chunk.
        chunk: CropFrames of one part.
        device: ``cpu`` or ``cuda``.
        precision: ``auto``, or a type of torch's.
    """

    backbone: str
    size: int
    batch: int
    chunk: int
    device: str
    precision: str

    def rows(self, chunk: int, frames: int) -> range:
        """The frames of a chunk."""
        return range(chunk * self.chunk, min((chunk + 1) * self.chunk, frames))


class Worker:
    """One actor of the pool.

    Args:
        shared: References to the ``CropFrames`` and to the backbone's weights, in the object store.
        plan: How.
        cpus: Threads of torch, and threads that read images.
    """

    def __init__(self, shared: tuple[ObjectRef[Any], ...], plan: ExtractionPlan, cpus: int) -> None:
        torch.set_num_threads(cpus)
        self.frames: CropFrames
        self.frames, weights = ray.get(list(shared))
        self.plan = plan
        backbone = make_backbone(plan.backbone, plan.size)
        # torch warns of the object store's pages, which nobody can write: they are only copied.
        backbone.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
        device = choose_device(plan.device)
        precision = choose_precision(plan.precision, device)
        self.extractor = Extractor(backbone.eval().to(device), plan.batch, cpus, precision)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """The part of one chunk."""
        chunk = int(batch["chunk"][0])
        part = self.extractor.part(self.frames, self.plan.rows(chunk, len(self.frames)))
        content = pa.array([part.content], pa.large_binary())
        return pa.table([[chunk], [part.failed], content], names=["chunk", "failed", "content"])


class Done(NamedTuple):
    """A chunk's part: a Parquet file, and how many of its images failed."""

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
) -> Iterator[Done]:
    """The parts of chunks, in any order, as they come.

    Args:
        frames: All of them.
        backbone: Its weights travel once, into the object store.
        plan: How.
        chunks: Which are to be done.
        workers: Actors.
        cpus: Of each.
        gpus: Of each.

    Raises:
        InputError: The images cannot be reached from a worker.
    """
    weights = {key: tensor.cpu().numpy() for key, tensor in backbone.state_dict().items()}
    items = [{"chunk": chunk} for chunk in chunks]
    tables = map_in_actors(
        Worker, (frames, weights), (plan, cpus), items, workers, cpus, gpus, ordered=False
    )
    for table in tables:
        for row in table.to_pylist():
            yield Done(**row)
