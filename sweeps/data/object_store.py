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
    """Feature sets of a dataset in Ray's object store.

    ``sweeps.data.sharding.make_shards`` reads them from the dataset. The keys of each attribute are
    the names of the feature sets.

    Attributes:
        names: Feature set -> names of its videos.
        blocks: Feature set -> references to its blocks. A block is an Arrow table with all kept
            frames of some videos; its columns are ``video`` (index into the feature set's
            ``names``), ``frame`` (frame number) and ``feature``.
        statistics: Feature set -> pair of arrays, the mean and the standard deviation of each
            feature over the training frames, both of shape (number of features,).
    """

    names: Mapping[str, tuple[str, ...]]
    blocks: Mapping[str, tuple[ObjectRef[Any], ...]]
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def load(self, name: str) -> FeatureTable:
        """Return the feature set with the given name as arrays in the node's shared memory.

        The first call on a node copies the features to that node. Later calls, also in other
        processes on the node, use the same memory without a copy.
        """
        blocks = ray.get(list(self.blocks[name]))
        mean, std = self.statistics[name]
        features: list[np.ndarray] = []
        rows: dict[str, tuple[int, int]] = {}
        frames: dict[str, np.ndarray] = {}
        for number, block in enumerate(blocks):
            video, frame, values = (
                _column_values(block[column]) for column in ("video", "frame", "feature")
            )
            features.append(values.reshape(len(block), len(mean)))
            starts = np.flatnonzero(np.diff(video, prepend=-1))
            for start, stop in zip(starts, [*starts[1:], len(block)], strict=True):
                video_name = self.names[name][video[start]]
                assert video_name not in rows, f"the rows of {video_name} came in two blocks"
                rows[video_name] = (number, int(start))
                frames[video_name] = frame[start:stop]
        return FeatureTable(name, features, rows, frames, mean, std)


def _column_values(column: pa.ChunkedArray) -> np.ndarray:
    """Return the numbers of an Arrow column as a flat array that shares the column's memory.

    Arrow's own conversions copy the memory or import pandas.

    Args:
        column: Column of numbers, or of lists of numbers with a fixed length.
    """
    assert column.num_chunks == 1, "a block was cut in two"
    array = column.chunk(0)
    if pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    numbers = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return numbers[array.offset : array.offset + len(array)]
