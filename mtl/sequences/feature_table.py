"""Feature sets in memory, in the blocks that they were read in.

Shapes: R rows of a block or of a whole set, T frames of a video, F features.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mtl.dataset import Dataset, FeatureIndex, Listing

READ_ROWS = 65_536
"""Rows of a feature set that are decoded at a time, before those to keep are picked."""
MAX_GAP_ROWS = 8192
"""Rows that nobody wants and that are decoded for what is on either side: a row group's."""


@dataclass(frozen=True)
class FeatureTable:
    """One feature set in memory.

    Attributes:
        name: The feature set.
        blocks: Rows of whole videos in stored precision.
        rows: The block and first row of each video.
        frames: The frame numbers of each video, ascending; its rows follow them.
        mean: Of each feature over the listed training frames; ``std`` beside it.
    """

    name: str
    blocks: Sequence[Shaped[np.ndarray, "_R F"]]
    rows: Mapping[str, tuple[int, int]]
    frames: Mapping[str, Int[np.ndarray, " _T"]]
    mean: Float[np.ndarray, " F"]
    std: Float[np.ndarray, " F"]


def read_table(
    dataset: Dataset,
    name: str,
    listing: Listing | None,
    videos: Collection[str] | None = None,
    index: FeatureIndex | None = None,
) -> FeatureTable:
    """A feature set read into this process.

    Args:
        dataset: The opened dataset.
        name: The feature set.
        listing: Only the frames that it lists.
        videos: Only these.
        index: The set's, where it has been read before.

    Raises:
        InputError: A row that breaks the contract (NaN ...), with its file and number.
    """
    index = index or dataset.index(name)
    kept = listed_rows(index, listing)
    if videos is not None:
        wanted = np.array([video in videos for video in index.names], bool)
        kept &= np.repeat(wanted, np.diff(index.starts))
    before = np.concatenate([[0], np.cumsum(kept)])[index.starts]
    blocks: list[np.ndarray] = []
    rows: dict[str, tuple[int, int]] = {}
    frames: dict[str, np.ndarray] = {}
    for first, last in _reads(index.starts, np.diff(before) > 0):
        start, stop = int(index.starts[first]), int(index.starts[last])
        for video in range(first, last):
            if before[video + 1] > before[video]:
                mine = slice(*index.starts[video : video + 2])
                rows[index.names[video]] = (len(blocks), int(before[video] - before[first]))
                frames[index.names[video]] = index.frames[mine][kept[mine]]
        blocks.append(dataset.read(name, start, stop)[kept[start:stop]])
    mean, std = dataset.statistics(name)
    return FeatureTable(name, blocks, rows, frames, mean, std)


def _reads(starts: Int[np.ndarray, " _S"], wanted: Bool[np.ndarray, " V"]) -> list[list[int]]:
    """First video, and the one after the last, of each read: whole videos, about ``READ_ROWS``."""
    reads: list[list[int]] = []
    for video in np.flatnonzero(wanted).tolist():
        near = reads and starts[video] - starts[reads[-1][1]] <= MAX_GAP_ROWS
        if near and starts[video + 1] - starts[reads[-1][0]] <= READ_ROWS:
            reads[-1][1] = video + 1
        else:
            reads.append([video, video + 1])
    return reads


def listed_rows(index: FeatureIndex, listing: Listing | None) -> Bool[np.ndarray, " R"]:
    """Which rows of a feature set the listing lists; all of them without one."""
    if listing is None:
        return np.ones(len(index.frames), bool)
    kept = np.zeros(len(index.frames), bool)
    place = {name: number for number, name in enumerate(listing.names)}
    for number, name in enumerate(index.names):
        if name in place:
            mine = slice(*index.starts[number : number + 2])
            listed = listing.frame[listing.video == place[name]]
            kept[mine] = np.isin(index.frames[mine], listed)
    return kept


def index_table(name: str, index: FeatureIndex) -> FeatureTable:
    """What ``read_table`` would know of the frames, without a feature."""
    rows = {video: (0, int(index.starts[i])) for i, video in enumerate(index.names)}
    frames = {v: index.frames[slice(*index.starts[i : i + 2])] for i, v in enumerate(index.names)}
    nothing = np.empty(0, np.float32)
    return FeatureTable(
        name, (np.empty((len(index.frames), 0), np.float16),), rows, frames, nothing, nothing
    )
