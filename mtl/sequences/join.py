"""Video sequences: feature sets joined on their common frames, with the labels of these frames.

Joining copies no features. A sequence refers to rows of the arrays (blocks) that hold the features
of whole videos in stored precision, so all trials of a machine share one copy.

Shapes: T frames of a sequence, N listed frames, R rows of a block, F features of a feature set.
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
    """Features of the T frames of one video sequence, as rows of a shared array.

    Attributes:
        block: Features of some whole videos, shape (rows, F).
        index: Row of ``block`` for each frame, (T,); a slice if the rows are consecutive.
    """

    block: Shaped[np.ndarray, "R F"]
    index: slice | Int[np.ndarray, " T"]

    def window(self, start: int, length: int) -> Shaped[np.ndarray, "T F"]:
        """Return the features of consecutive frames of the sequence, shape (length, F).

        Args:
            start: Position of the first frame in the sequence, from 0.
            length: Number of frames.
        """
        if isinstance(self.index, slice):
            first = self.index.start + start
            rows: np.ndarray = self.block[first : first + length]
        else:
            rows = self.block[self.index[start : start + length]]
        return rows


@dataclass(frozen=True)
class VideoSequence:
    """Frames of one video that every chosen feature set has, in order, with their labels.

    Attributes:
        video: Name of the video.
        frames: Frame numbers, ascending, (T,).
        features: Features of these frames, one entry for each chosen feature set.
        labels: Labels in the columns ``LABEL_COLUMNS`` (valence, arousal, expression and 12 action
            units), (T, 15); 0 where missing.
        mask: True where a label is present, (T, 15).
    """

    video: str
    frames: Int[np.ndarray, " T"]
    features: tuple[Rows, ...]
    labels: Float[np.ndarray, "T 15"]
    mask: Bool[np.ndarray, "T 15"]

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True)
class Part:
    """N frames of the annotation files to predict, and the sequences that a model predicts.

    Attributes:
        rows: Row of each frame in the listing of all annotated frames, (N,).
        sequences: Sequences of the videos that have features.
        source: Frame of the concatenated sequences that gives the prediction of each of the N
            frames, as an index, (N,): the same frame, or the nearest frame of the same video if
            the frame has no features, or -1 if the video has no features.
        labels: Labels of each of the N frames, (N, 15); 0 where missing.
        mask: True where a label is present, (N, 15).
    """

    rows: Int[np.ndarray, " N"]
    sequences: tuple[VideoSequence, ...]
    source: Int[np.ndarray, " N"]
    labels: Float[np.ndarray, "N 15"]
    mask: Bool[np.ndarray, "N 15"]


def join(
    listing: Listing,
    tables: Sequence[FeatureTable],
    frame_choice: FrameChoice = "listed",
    stride: int = 1,
) -> dict[str, VideoSequence]:
    """Return the sequence of each video, made of the frames that every chosen feature set has.

    Args:
        listing: Frames named in the annotation files, with their labels.
        tables: Feature sets to join on their common frames.
        frame_choice: ``listed`` takes only frames in the annotation files, ``all`` takes every
            frame with features.
        stride: Step between the frames taken; 1 takes every frame.

    Returns:
        The sequences by video name, without videos that have no common frame.

    Raises:
        InputError: If no video has a frame that all the feature sets have.
    """
    sequences = join_any(listing, tables, frame_choice, stride)
    if not sequences:
        raise _no_common_frames(tables)
    return sequences


def join_any(
    listing: Listing,
    tables: Sequence[FeatureTable],
    frame_choice: FrameChoice = "listed",
    stride: int = 1,
) -> dict[str, VideoSequence]:
    """Return a sequence of frames for each video that has frames with all chosen feature sets.

    Unlike ``join``, this function returns an empty dict if there is no such video.

    Args:
        listing: Frames named in the annotation files, with their labels.
        tables: Feature sets to join on their common frames.
        frame_choice: ``listed`` takes only frames in the annotation files, ``all`` takes every
            frame with features.
        stride: Step between the frames taken; 1 takes every frame.

    Returns:
        The sequences by video name.
    """
    return {
        name: sequence
        for name, rows in _rows_by_video(listing).items()
        if (sequence := _join_video(name, rows, listing, tables, frame_choice, stride)) is not None
    }


def _no_common_frames(tables: Sequence[FeatureTable]) -> InputError:
    names = ", ".join(table.name for table in tables)
    return InputError(
        f"feature sets {names} have no listed frame in common: "
        "check that they use the same video names and frame numbers"
    )


def count_missing_features(
    listing: Listing, tables: Sequence[FeatureTable], frame_choice: FrameChoice = "listed"
) -> tuple[int, int]:
    """Count the frames of the annotation files that lack some of the features.

    A frame without features takes the prediction of the nearest frame that the model sees in the
    same video. If there is none, the prediction is the mean of the training labels.

    Args:
        listing: Frames named in the annotation files.
        tables: Feature sets that a frame must have.
        frame_choice: Frames that the model sees: ``listed`` (frames in the annotation files that
            have all features) or ``all`` (every frame with all features).

    Returns:
        The number of frames predicted from the nearest frame, and the number of frames predicted by
        the mean of the training labels.

    Raises:
        InputError: If the model sees no frame of any video.
    """
    nearest = prior = 0
    for name, rows in _rows_by_video(listing).items():
        listed = listing.frame[rows]
        frames = _common_frames(name, listed, tables, frame_choice)
        if len(frames):
            nearest += int(np.isin(listed, frames, invert=True).sum())
        else:
            prior += len(listed)
    if prior == len(listing.frame):
        raise _no_common_frames(tables)
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
    frame_choice: FrameChoice,
    stride: int,
) -> VideoSequence | None:
    listed = listing.frame[rows]
    frames = _common_frames(name, listed, tables, frame_choice)[::stride]
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
    name: str,
    listed: Int[np.ndarray, " n"],
    tables: Sequence[FeatureTable],
    frame_choice: FrameChoice,
) -> Int[np.ndarray, " T"]:
    if not len(listed) or any(name not in table.frames for table in tables):
        return np.empty(0, np.int32)
    candidates = [table.frames[name] for table in tables]
    if frame_choice == "listed":
        candidates.append(listed)
    return functools.reduce(np.intersect1d, candidates)


def _rows_of(table: FeatureTable, video: str, frames: Int[np.ndarray, " T"]) -> Rows:
    block, first = table.rows[video]
    index = first + np.searchsorted(table.frames[video], frames)
    consecutive = index[-1] - index[0] == len(index) - 1
    return Rows(table.blocks[block], slice(index[0], index[-1] + 1) if consecutive else index)


def part_of(
    listing: Listing, sequences: Mapping[str, VideoSequence], videos: Iterable[str]
) -> Part:
    """Return the frames of some videos to predict, and the sequences that a model predicts.

    Args:
        listing: Frames named in the annotation files, with their labels.
        sequences: Sequences (frames with features) by video name; a video without features is left
            out.
        videos: Names of the videos to predict.
    """
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
        of_video = np.flatnonzero(listing.video[rows] == video_of[sequence.video])
        frames = listing.frame[rows[of_video]]
        source[of_video] = start + nearest_index(sequence.frames, frames)
        start += len(sequence)
    return Part(rows, tuple(chosen), source, listing.values[rows], listing.mask[rows])


def nearest_index(
    frames: Int[np.ndarray, " T"], wanted: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " N"]:
    """Return the index of the frame number nearest to each wanted frame number.

    Args:
        frames: Frame numbers to choose from, ascending, (T,).
        wanted: Frame numbers to look up, (N,).

    Returns:
        Indices into ``frames``, (N,); of two equally near frames the earlier one.
    """
    right = np.searchsorted(frames, wanted).clip(0, len(frames) - 1)
    left = (right - 1).clip(0)
    earlier = np.abs(wanted - frames[left]) <= np.abs(frames[right] - wanted)
    return np.where(earlier, left, right)


def trained_tasks(tasks: Iterable[str], listing: Listing) -> tuple[str, ...]:
    """Return the names of the tasks that have a label on at least one training frame.

    Args:
        tasks: Names of tasks; the result keeps their order.
        listing: Frames and labels of all videos, with the split of each video.
    """
    known = listing.mask[_training(listing)].any(axis=0)
    return tuple(name for name in tasks if known[TASKS[name].labels].any())


def _training(listing: Listing) -> Bool[np.ndarray, " N"]:
    return np.isin(np.asarray(listing.splits)[listing.video], "train")


def training_prior(listing: Listing) -> Float[np.ndarray, "22"]:
    """Return the prediction for a video without features: the mean of the training labels.

    Args:
        listing: Frames and labels of all videos, with the split of each video.

    Returns:
        The mean valence and arousal, the frequency of each expression and of each action unit, in
        the columns ``OUTPUT_COLUMNS``; NaN for a task without training labels.
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
