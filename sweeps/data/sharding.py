"""Reading of feature sets into the object store with Ray Data, as blocks of whole videos.

Ray Data reads each feature set once, in parallel. The object store holds one copy on each node,
which all trials on that node read without copying. A block is an Arrow table with the video, the
frame number and the features of each frame of some videos.

Shapes: R rows (frames) of a feature set.
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
from sweeps.data.ray_data import set_up_ray_data, unwrap_input_error, with_absolute_address

BLOCK_BYTES = 64 * 2**20
"""Intended size of a block (features of some whole videos); a long video makes a larger block."""


def make_shards(dataset: Dataset, feature_sets: Iterable[str], listing: Listing | None) -> Shards:
    """Read feature sets of a dataset into Ray's object store and return references to them.

    Args:
        dataset: The opened dataset.
        feature_sets: Names of the feature sets.
        listing: Frames named in the annotation files; only their features are kept. None keeps the
            features of all frames.

    Raises:
        InputError: If a row is not allowed in a dataset, for example because of a NaN; the message
            names the file and the row.
    """
    set_up_ray_data()
    dataset = with_absolute_address(dataset)
    indices = {name: dataset.index(name) for name in feature_sets}
    try:
        blocks = {
            name: _materialize(dataset, name, index, listed_rows(index, listing))
            for name, index in indices.items()
        }
    except Exception as error:
        raise unwrap_input_error(error) from None
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
        wanted = kept[start:stop]
        features = dataset.read(name, start, stop)[wanted]
        # Not as Ray's tensor column: to read one, a slot would have to import Ray Data.
        lists = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
        columns = [pa.array(video[start:stop][wanted]), pa.array(frames[start:stop][wanted]), lists]
        return pa.table(columns, names=["video", "frame", "feature"])

    source = from_items(
        [{"start": start, "stop": stop} for start, stop in spans], override_num_blocks=len(spans)
    )
    # The slots have already reserved the CPUs, so the tasks that read reserve none.
    cpus: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    concurrency = max(1, min(len(spans), int(cpus.get("CPU", 1))))
    mapped = source.map_batches(read, batch_size=1, num_cpus=0, concurrency=concurrency)
    materialized = mapped.materialize()
    # Slots get the references, not the Ray dataset, which would start an executor in each of them.
    return tuple(
        reference
        for bundle in materialized.iter_internal_ref_bundles()
        for reference in bundle.block_refs
    )


def _spans(index: FeatureIndex, kept: Bool[np.ndarray, " R"], width: int) -> list[tuple[int, int]]:
    """Divide the rows of a feature set into ranges, each with all rows of some videos.

    The kept rows of a range take about 64 MiB (``BLOCK_BYTES``).

    Args:
        index: Lookup from video and frame to the row of its features.
        kept: True for the rows to keep, shape (rows of the feature set,).
        width: Number of features of one row.

    Returns:
        For each range the first row and the row after the last row. Ranges without kept rows are
        left out.
    """
    kept_before: Int[np.ndarray, " R+1"] = np.concatenate([[0], np.cumsum(kept)])
    rows = kept_before[index.starts]
    block_rows = max(1, BLOCK_BYTES // (4 * width))
    spans: list[tuple[int, int]] = []
    first = 0
    for video in range(1, len(rows)):
        if rows[video] - rows[first] >= block_rows or video == len(rows) - 1:
            if rows[video] > rows[first]:
                spans.append((int(index.starts[first]), int(index.starts[video])))
            first = video
    return spans
