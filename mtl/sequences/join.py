"""Feature sets joined on their common frames: the sequences that a model walks over.

Nothing is copied here: a sequence points at rows of the blocks that hold the features in their
stored precision, so that all trials of a machine share one copy.

Shapes: T frames of a sequence, N listed frames, R rows of a block, F features of a set.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from mtl.config import FrameChoice
from mtl.dataset import Listing
from mtl.errors import InputError
from mtl.sequences.feature_table import FeatureTable
from mtl.tasks import LABEL_COLUMNS, TASKS


@dataclass(frozen=True)
class Rows:
    """Rows of a block: a slice where they follow each other, which they mostly do."""

    block: Shaped[np.ndarray, "R F"]
    index: slice | Int[np.ndarray, " T"]

    def window(self, start: int, length: int) -> Shaped[np.ndarray, "T F"]:
        """Rows [start, start + length) of the sequence."""
        if isinstance(self.index, slice):
            first = self.index.start + start
            rows: np.ndarray = self.block[first : first + length]
        else:
            rows = self.block[self.index[start : start + length]]
        return rows


@dataclass(frozen=True)
class VideoSequence:
    """One video's frames with all chosen features, in order, and what is known of them."""

    video: str
    frames: Int[np.ndarray, " T"]
    features: tuple[Rows, ...]
    labels: Float[np.ndarray, "T 15"]
    mask: Bool[np.ndarray, "T 15"]

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class Part:
    """Listed frames to predict, and the sequences that predict them.

    Attributes:
        rows: Where the frames stand in the listing, (N,).
        sequences: The videos that have features.
        source: For each frame its place in the concatenated sequences: its own frame or, where that
            has no features, the nearest frame of its video; -1 if the video has none at all.
    """

    rows: Int[np.ndarray, " N"]
    sequences: tuple[VideoSequence, ...]
    source: Int[np.ndarray, " N"]
    labels: Float[np.ndarray, "N 15"]
    mask: Bool[np.ndarray, "N 15"]


def join(
    listing: Listing, tables: Sequence[FeatureTable], which: FrameChoice = "listed", stride: int = 1
) -> dict[str, VideoSequence]:
    """The sequence of each listed video that has frames with all chosen features.

    Args:
        listing: The listed frames and their labels.
        tables: The feature sets to join on their common frames.
        which: ``listed`` frames, or ``all`` with features.
        stride: Every n-th of them.

    Raises:
        InputError: If no listed video has a frame that all the feature sets have.
    """
    sequences = join_any(listing, tables, which, stride)
    if not sequences:
        raise _nothing_in_common(tables)
    return sequences


def join_any(
    listing: Listing, tables: Sequence[FeatureTable], which: FrameChoice = "listed", stride: int = 1
) -> dict[str, VideoSequence]:
    """``join`` of some of a dataset's videos, of which none need have features."""
    return {
        name: sequence
        for name, rows in _rows_by_video(listing).items()
        if (sequence := _join_video(name, rows, listing, tables, which, stride)) is not None
    }


def _nothing_in_common(tables: Sequence[FeatureTable]) -> InputError:
    names = ", ".join(table.name for table in tables)
    return InputError(
        f"feature sets {names} have no listed frame in common: "
        "check that they number the frames alike"
    )


def count_missing_features(
    listing: Listing, tables: Sequence[FeatureTable], which: FrameChoice = "listed"
) -> tuple[int, int]:
    """How many listed frames have not all these features: those of videos that have some frame to
    predict them from, and those of videos that have none.

    Raises:
        InputError: If no video has any.
    """
    nearest = prior = 0
    for name, rows in _rows_by_video(listing).items():
        listed = listing.frame[rows]
        frames = _common_frames(name, listed, tables, which)
        if len(frames):
            nearest += int(np.isin(listed, frames, invert=True).sum())
        else:
            prior += len(listed)
    if prior == len(listing.frame):
        raise _nothing_in_common(tables)
    return nearest, prior


def _rows_by_video(listing: Listing) -> dict[str, Int[np.ndarray, " n"]]:
    order = np.lexsort((listing.frame, listing.video))
    ends = np.searchsorted(listing.video[order], np.arange(len(listing.names) + 1))
    return {name: order[ends[i] : ends[i + 1]] for i, name in enumerate(listing.names)}


def _join_video(
    name: str,
    rows: Int[np.ndarray, " n"],
    listing: Listing,
    tables: Sequence[FeatureTable],
    which: FrameChoice,
    stride: int,
) -> VideoSequence | None:
    listed = listing.frame[rows]
    frames = _common_frames(name, listed, tables, which)[::stride]
    if not len(frames):
        return None
    labels = np.zeros((len(frames), len(LABEL_COLUMNS)), np.float32)
    mask = np.zeros(labels.shape, bool)
    at = np.minimum(np.searchsorted(listed, frames), len(listed) - 1)
    known = listed[at] == frames
    labels[known] = listing.values[rows[at[known]]]
    mask[known] = listing.mask[rows[at[known]]]
    features = tuple(_rows_of(table, name, frames) for table in tables)
    return VideoSequence(name, frames, features, labels, mask)


def _common_frames(
    name: str, listed: Int[np.ndarray, " n"], tables: Sequence[FeatureTable], which: FrameChoice
) -> Int[np.ndarray, " T"]:
    if not len(listed) or any(name not in table.frames for table in tables):
        return np.empty(0, np.int32)
    candidates = [table.frames[name] for table in tables]
    if which == "listed":
        candidates.append(listed)
    return functools.reduce(np.intersect1d, candidates)


def _rows_of(table: FeatureTable, video: str, frames: Int[np.ndarray, " T"]) -> Rows:
    block, first = table.rows[video]
    index = first + np.searchsorted(table.frames[video], frames)
    follows = index[-1] - index[0] == len(index) - 1
    return Rows(table.blocks[block], slice(index[0], index[-1] + 1) if follows else index)


def part_of(
    listing: Listing, sequences: Mapping[str, VideoSequence], videos: Iterable[str]
) -> Part:
    """The listed frames of ``videos`` with the sequences that predict them."""
    wanted = np.isin(listing.names, list(videos))
    rows = np.flatnonzero(wanted[listing.video])
    chosen = [
        sequences[n]
        for n, want in zip(listing.names, wanted, strict=True)
        if want and n in sequences
    ]
    source = np.full(len(rows), -1)
    start = 0
    video_of = {name: index for index, name in enumerate(listing.names)}
    for sequence in chosen:
        mine = np.flatnonzero(listing.video[rows] == video_of[sequence.video])
        frames = listing.frame[rows[mine]]
        source[mine] = start + nearest_index(sequence.frames, frames)
        start += len(sequence)
    return Part(rows, tuple(chosen), source, listing.values[rows], listing.mask[rows])


def nearest_index(
    frames: Int[np.ndarray, " T"], wanted: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """For each wanted frame number the index of the nearest of ``frames`` (sorted); the earlier
    one where two are as near.
    """
    right = np.searchsorted(frames, wanted).clip(0, len(frames) - 1)
    left = (right - 1).clip(0)
    earlier = np.abs(wanted - frames[left]) <= np.abs(frames[right] - wanted)
    return np.where(earlier, left, right)


def trained_tasks(tasks: Iterable[str], listing: Listing) -> tuple[str, ...]:
    """Those of ``tasks`` that have a label on some training frame: the others get no head."""
    known = listing.mask[_training(listing)].any(axis=0)
    return tuple(name for name in tasks if known[TASKS[name].labels].any())


def _training(listing: Listing) -> Bool[np.ndarray, " N"]:
    return np.isin(np.asarray(listing.splits)[listing.video], "train")


def training_prior(listing: Listing) -> Float[np.ndarray, "22"]:
    """What is predicted for a video without features: the mean of the training labels.

    NaN for a task that has none.
    """
    train = _training(listing)
    values, mask = listing.values[train], listing.mask[train]
    prior = np.full(max(task.outputs.stop for task in TASKS.values()), np.nan, np.float32)
    for task in TASKS.values():
        known = mask[:, task.labels]
        if not known.any():
            continue
        if task.kind == "multiclass":
            classes = values[known[:, 0], task.labels].astype(int).ravel()
            prior[task.outputs] = np.bincount(classes, minlength=task.width) / len(classes)
        else:
            total = np.where(known, values[:, task.labels], 0).sum(axis=0)
            prior[task.outputs] = total / known.sum(axis=0).clip(1)
    return prior
