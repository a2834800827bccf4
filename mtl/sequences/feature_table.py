"""Feature sets in memory, as blocks of whole videos.

Shapes: R rows of a block or of a whole feature set, V videos, T frames of a video, F features.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mtl.dataset import Dataset, FeatureIndex, Listing

READ_ROWS = 65_536
"""Rows of a feature set that are read at a time, before the unwanted ones are dropped."""
MAX_GAP_ROWS = 8192
"""Most unwanted rows that are read along, to join the wanted rows on both sides in one read."""


@dataclass(frozen=True)
class FeatureTable:
    """One feature set in memory.

    Attributes:
        name: Name of the feature set.
        blocks: Features of whole videos in stored precision, each block of shape (R, F).
        rows: Index of the block and of the first row in that block, for each video.
        frames: Frame numbers of each video, ascending, (T,); one row of the block for each.
        mean: Mean of each feature over the listed training frames, (F,).
        std: Standard deviation of each feature over the listed training frames, (F,).
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
    """Read a feature set, or some frames of it, into memory.

    Args:
        dataset: The opened dataset.
        name: Name of the feature set.
        listing: Listing that the kept frames must be in; None keeps all frames.
        videos: Names of the videos to keep; None keeps all videos.
        index: Index of the feature set, if it has been read already.

    Raises:
        InputError: If a feature is not finite or rows are out of order; the message names the file
            and row.
    """
    index = index or dataset.index(name)
    kept = listed_rows(index, listing)
    if videos is not None:
        wanted = np.array([video in videos for video in index.names], bool)
        kept &= np.repeat(wanted, np.diff(index.starts))
    kept_before = np.concatenate([[0], np.cumsum(kept)])[index.starts]
    blocks: list[np.ndarray] = []
    rows: dict[str, tuple[int, int]] = {}
    frames: dict[str, np.ndarray] = {}
    for first, last in _reads(index.starts, np.diff(kept_before) > 0):
        start, stop = int(index.starts[first]), int(index.starts[last])
        for video in range(first, last):
            if kept_before[video + 1] > kept_before[video]:
                video_rows = slice(*index.starts[video : video + 2])
                rows[index.names[video]] = (
                    len(blocks),
                    int(kept_before[video] - kept_before[first]),
                )
                frames[index.names[video]] = index.frames[video_rows][kept[video_rows]]
        blocks.append(dataset.read(name, start, stop)[kept[start:stop]])
    mean, std = dataset.statistics(name)
    return FeatureTable(name, blocks, rows, frames, mean, std)


def _reads(starts: Int[np.ndarray, " _S"], wanted: Bool[np.ndarray, " V"]) -> list[list[int]]:
    """Group the wanted videos into reads of about ``READ_ROWS`` rows.

    Returns:
        The first video and the video after the last, for each read.
    """
    reads: list[list[int]] = []
    for video in np.flatnonzero(wanted).tolist():
        near = reads and starts[video] - starts[reads[-1][1]] <= MAX_GAP_ROWS
        if near and starts[video + 1] - starts[reads[-1][0]] <= READ_ROWS:
            reads[-1][1] = video + 1
        else:
            reads.append([video, video + 1])
    return reads


def listed_rows(index: FeatureIndex, listing: Listing | None) -> Bool[np.ndarray, " R"]:
    """Return True for each row of a feature set that is a listed frame.

    Args:
        index: Videos and frame numbers of the rows.
        listing: Listed frames; None returns True for every row.
    """
    if listing is None:
        return np.ones(len(index.frames), bool)
    kept = np.zeros(len(index.frames), bool)
    place = {name: number for number, name in enumerate(listing.names)}
    for number, name in enumerate(index.names):
        if name in place:
            video_rows = slice(*index.starts[number : number + 2])
            listed = listing.frame[listing.video == place[name]]
            kept[video_rows] = np.isin(index.frames[video_rows], listed)
    return kept


def index_table(name: str, index: FeatureIndex) -> FeatureTable:
    """Return a table with the videos and frame numbers of a feature set but no features (F = 0)."""
    rows = {video: (0, int(index.starts[i])) for i, video in enumerate(index.names)}
    frames = {v: index.frames[slice(*index.starts[i : i + 2])] for i, v in enumerate(index.names)}
    no_features = np.empty(0, np.float32)
    return FeatureTable(
        name,
        (np.empty((len(index.frames), 0), np.float16),),
        rows,
        frames,
        no_features,
        no_features,
    )
