"""Parquet -> Ray Data -> blocks of whole videos, materialized once per feature set.

Ray Data reads each feature set once, in parallel, and leaves it in the object store: one copy on
each node, read by all trials of that node without copying. A block carries its own index.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from jaxtyping import Bool, Int
from ray import ObjectRef
from ray.data import from_items

from mtl.dataset import Dataset, FeatureIndex, Listing
from mtl.sequences.feature_table import listed_rows
from sweeps.data.object_store import Shards
from sweeps.data.ray_data import from_any_folder, set_up_ray_data, user_error

BLOCK_BYTES = 64 * 2**20
"""Aim of a block; a longer video makes a larger one."""


def make_shards(dataset: Dataset, feature_sets: Iterable[str], listing: Listing | None) -> Shards:
    """Read feature sets into the object store.

    Args:
        dataset: The opened dataset.
        feature_sets: Which of them.
        listing: Keep only the rows of its frames (``sequence.frames: listed``); None keeps all.

    Raises:
        InputError: A row that breaks the contract (NaN ...), with its file and number.
    """
    set_up_ray_data()
    dataset = from_any_folder(dataset)
    indices = {name: dataset.index(name) for name in feature_sets}
    try:
        blocks = {
            name: _materialize(dataset, name, index, listed_rows(index, listing))
            for name, index in indices.items()
        }
    except Exception as error:
        raise user_error(error) from None
    return Shards(
        {name: index.names for name, index in indices.items()},
        blocks,
        {name: dataset.statistics(name) for name in indices},
    )


def _materialize(
    dataset: Dataset, name: str, index: FeatureIndex, kept: Bool[np.ndarray, " R"]
) -> tuple[ObjectRef[Any], ...]:
    video = np.repeat(np.arange(len(index.names), dtype=np.int32), np.diff(index.starts))
    spans = _spans(index, kept, dataset.width(name))
    shared = ray.put((video, index.frames, kept))

    def read(batch: Mapping[str, Any]) -> pa.Table:
        start, stop = int(batch["start"][0]), int(batch["stop"][0])
        video, frames, kept = ray.get(shared)
        mine = kept[start:stop]
        features = dataset.read(name, start, stop)[mine]
        # No tensor column of Ray's: to read one a slot would import all of Ray Data.
        lists = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
        columns = [pa.array(video[start:stop][mine]), pa.array(frames[start:stop][mine]), lists]
        return pa.table(columns, names=["video", "frame", "feature"])

    source = from_items(
        [{"start": start, "stop": stop} for start, stop in spans], override_num_blocks=len(spans)
    )
    # The slots hold the CPUs already.
    cpus: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    at_once = max(1, min(len(spans), int(cpus.get("CPU", 1))))
    mapped = source.map_batches(read, batch_size=1, num_cpus=0, concurrency=at_once)
    materialized = mapped.materialize()
    # Asked of the dataset in each slot, they would start an executor there, which takes seconds.
    return tuple(
        r for bundle in materialized.iter_internal_ref_bundles() for r in bundle.block_refs
    )


def _spans(index: FeatureIndex, kept: Bool[np.ndarray, " R"], width: int) -> list[tuple[int, int]]:
    """Row spans of whole videos that keep about ``BLOCK_BYTES`` each; empty ones are left out."""
    before: Int[np.ndarray, " R+1"] = np.concatenate([[0], np.cumsum(kept)])
    rows = before[index.starts]
    aim = max(1, BLOCK_BYTES // (4 * width))
    spans: list[tuple[int, int]] = []
    first = 0
    for video in range(1, len(rows)):
        if rows[video] - rows[first] >= aim or video == len(rows) - 1:
            if rows[video] > rows[first]:
                spans.append((int(index.starts[first]), int(index.starts[video])))
            first = video
    return spans
