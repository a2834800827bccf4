"""Feature sets in Ray's object store, which trials map into memory without a copy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray import ObjectRef

from mtl.sequences.feature_table import FeatureTable


@dataclass(frozen=True)
class Shards:
    """Feature sets of a dataset in the object store, made by ``sweeps.data.sharding.make_shards``.

    Attributes:
        names: Video names of each feature set; the column ``video`` of a block holds indices into
            them.
        blocks: References to the blocks of each feature set. A block is an Arrow table of whole
            videos with the columns ``video``, ``frame`` and ``feature``.
        statistics: Mean and standard deviation of each feature, (F,) each, of each feature set.
    """

    names: Mapping[str, tuple[str, ...]]
    blocks: Mapping[str, tuple[ObjectRef[Any], ...]]
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def load(self, name: str) -> FeatureTable:
        """Return a feature set as arrays in the shared memory of this node's object store.

        The first call on a node copies the blocks to it; later calls in any of its processes map
        the same memory.
        """
        blocks = ray.get(list(self.blocks[name]))
        mean, std = self.statistics[name]
        features: list[np.ndarray] = []
        rows: dict[str, tuple[int, int]] = {}
        frames: dict[str, np.ndarray] = {}
        for number, block in enumerate(blocks):
            video, frame, values = (
                _mapped(block[column]) for column in ("video", "frame", "feature")
            )
            features.append(values.reshape(len(block), len(mean)))
            starts = np.flatnonzero(np.diff(video, prepend=-1))
            for start, stop in zip(starts, [*starts[1:], len(block)], strict=True):
                video_name = self.names[name][video[start]]
                assert video_name not in rows, f"the rows of {video_name} came in two blocks"
                rows[video_name] = (number, int(start))
                frames[video_name] = frame[start:stop]
        return FeatureTable(name, features, rows, frames, mean, std)


def _mapped(column: pa.ChunkedArray) -> np.ndarray:
    """Return the numbers of a column as a view of its memory, the lists of a list column flattened.

    Arrow's own conversions copy the memory or import pandas.
    """
    assert column.num_chunks == 1, "a block was cut in two"
    array = column.chunk(0)
    if pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    numbers = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return numbers[array.offset : array.offset + len(array)]
