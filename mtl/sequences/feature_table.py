"""Feature sets (one feature vector per video frame) in memory, as arrays of whole videos.

A block is an array with the features of all kept frames of one or more videos.

Shapes: R rows of a block or of a whole feature set, V videos, T frames of a video, F features.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mtl.dataset import Dataset, FeatureIndex, Listing

READ_ROWS = 65_536
"""Largest number of rows read at once for several videos, with the unwanted rows between them."""
MAX_GAP_ROWS = 8192
"""Largest number of unwanted rows between two wanted videos that are read together."""


@dataclass(frozen=True)
class FeatureTable:
    """One feature set (F features per video frame) in memory.

    Attributes:
        name: Name of the feature set.
        blocks: Arrays with the features of some whole videos each, in stored precision, (rows, F).
        rows: By the video's name the pair (index of an array in ``blocks``, index of the video's
            first row in this array).
        frames: Ascending frame numbers of each video, (T,), by the video's name. The video has one
            row of features for each frame number, in this order.
        mean: Mean of each feature over the training frames of the annotation files, (F,).
        std: Standard deviation of each feature over these training frames, (F,).
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
        listing: Frames named in the annotation files; other frames are dropped. None keeps all
            frames.
        videos: Names of the videos to keep; None keeps all videos.
        index: Video and frame number of each row of the feature set; None reads them.

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
    for first, last in _group_reads(index.starts, np.diff(kept_before) > 0):
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


def _group_reads(starts: Int[np.ndarray, " _S"], wanted: Bool[np.ndarray, " V"]) -> list[list[int]]:
    """Group the wanted videos of a feature set, so that one read fetches several videos.

    A read covers at most ``READ_ROWS`` rows, except for a single longer video.

    Args:
        starts: First row of each of V videos, followed by the number of rows, (V + 1,).
        wanted: True for each video to read, (V,).

    Returns:
        For each read a list of two indices: of the first video, and of the video after the last.
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
    """Return True for each row of a feature set that belongs to a frame of the annotation files.

    Args:
        index: Video and frame number of each row of the feature set.
        listing: Frames named in the annotation files; None returns True for every row.
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
    """Return a feature table with frame numbers but without features (arrays of 0 columns).

    The table serves to find the common frames of feature sets without reading the features.

    Args:
        name: Name of the feature set.
        index: Video and frame number of each row of the feature set.
    """
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
