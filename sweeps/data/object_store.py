"""Features in the object store of a node, as its trials read them: mapped, not copied."""

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
    """The materialized features of a dataset (``sweeps.data.sharding``).

    Attributes:
        names: Video names; a block's ``video`` column points here.
        blocks: References to the blocks of each feature set, Arrow tables of whole videos.
        statistics: Mean and std of each set.
    """

    names: Mapping[str, tuple[str, ...]]
    blocks: Mapping[str, tuple[ObjectRef[Any], ...]]
    statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]

    def load(self, name: str) -> FeatureTable:
        """A feature set as arrays that lie in this node's object store.

        The first process of a node that asks fetches the blocks; the others map the same memory.
        """
        blocks = ray.get(list(self.blocks[name]))
        mean, std = self.statistics[name]
        features: list[np.ndarray] = []
        rows: dict[str, tuple[int, int]] = {}
        frames: dict[str, np.ndarray] = {}
        for number, block in enumerate(blocks):
            of_row, numbers, values = (
                _mapped(block[column]) for column in ("video", "frame", "feature")
            )
            features.append(values.reshape(len(block), len(mean)))
            starts = np.flatnonzero(np.diff(of_row, prepend=-1))
            for start, stop in zip(starts, [*starts[1:], len(block)], strict=True):
                own = self.names[name][of_row[start]]
                assert own not in rows, f"the rows of {own} came in two blocks"
                rows[own] = (number, int(start))
                frames[own] = numbers[start:stop]
        return FeatureTable(name, features, rows, frames, mean, std)


def _mapped(column: pa.ChunkedArray) -> np.ndarray:
    """A column's numbers, of all its lists one after the other, where they lie.

    Arrow's own conversions copy the chunk, or import pandas.
    """
    assert column.num_chunks == 1, "a block was cut in two"
    array = column.chunk(0)
    if pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    numbers = np.frombuffer(array.buffers()[1], array.type.to_pandas_dtype())
    return numbers[array.offset : array.offset + len(array)]
