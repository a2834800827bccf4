"""Frames named in the annotation files, with splits, subjects and labels: arrays and tables."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtl.errors import InputError
from mtl.tasks import LABEL_COLUMNS, TASKS

SPLITS = ("train", "validation", "test")
MIN_TRAINING_VIDEOS = 2
"""Smallest number of training videos; a model trained on one video does not generalise."""


@dataclass(frozen=True, eq=False)
class Listing:
    """Listed frames with their labels: N training, then validation, then test frames of V videos.

    A listed frame is one that the challenge's annotation files or test list name.

    Attributes:
        names: Names of the V videos.
        splits: Split of each video, one of ``SPLITS``.
        subjects: Person in each video; the video's name if the person is unknown.
        video: Video of each listed frame, as an index into ``names``, int32, shape (N,).
        frame: Frame number within the video, int32, shape (N,).
        values: Labels in the columns ``LABEL_COLUMNS`` (valence, arousal, expression and 12 action
            units), float32, shape (N, 15); 0 where missing.
        mask: True where a label is present, bool, shape (N, 15).
    """

    names: tuple[str, ...]
    splits: tuple[str, ...]
    subjects: tuple[str, ...]
    video: np.ndarray
    frame: np.ndarray
    values: np.ndarray
    mask: np.ndarray

    @property
    def split(self) -> np.ndarray:
        """Split of each listed frame: 0 train, 1 validation, 2 test; int8, shape (frames,)."""
        return np.asarray(np.array([SPLITS.index(s) for s in self.splits], np.int8)[self.video])

    def take(self, rows: slice | np.ndarray) -> "Listing":
        """Return a listing of some of the frames, and of only the videos that these frames are in.

        Args:
            rows: Slice, indices or boolean mask of the frames to keep.
        """
        used, video = np.unique(self.video[rows], return_inverse=True)
        names, splits, subjects = (
            tuple(column[place] for place in used)
            for column in (self.names, self.splits, self.subjects)
        )
        labels = self.values[rows], self.mask[rows]
        return Listing(names, splits, subjects, video.astype(np.int32), self.frame[rows], *labels)

    @classmethod
    def unlabelled(
        cls,
        names: tuple[str, ...],
        splits: tuple[str, ...],
        subjects: tuple[str, ...],
        video: np.ndarray,
        frame: np.ndarray,
    ) -> "Listing":
        """Return a listing in which every label is missing; the label arrays take no memory.

        Args:
            names: Names of the videos.
            splits: Split of each video (train, validation or test).
            subjects: Person in each video.
            video: Video of each listed frame, as an index into ``names``, int32, shape
                (frames,).
            frame: Frame number of each listed frame, int32, shape (frames,).
        """
        shape = (len(frame), len(LABEL_COLUMNS))
        values, mask = np.broadcast_to(np.float32(0), shape), np.broadcast_to(np.False_, shape)
        return cls(names, splits, subjects, video, frame, values, mask)


def check_listing(listing: Listing) -> None:
    """Check that listed frames are valid and enough for training.

    A listing of test frames alone is accepted too, because a trained model can predict them.

    Raises:
        InputError: If a video is listed twice or has an unknown split, a frame is listed twice, the
            frames are not in the order train, validation, test, or there are no validation frames
            or fewer than ``MIN_TRAINING_VIDEOS`` training videos; the message names the video or
            frame.
    """
    _check_shapes(listing)
    _check_videos(listing)
    _check_frames(listing)
    if len(listing.frame) and set(listing.splits) == {"test"}:
        return
    for split in ("train", "validation"):
        if not (listing.split == SPLITS.index(split)).any():
            raise InputError(
                f"the dataset lists no {split} frames: list some, for a sweep needs training and "
                "validation frames"
            )
    training = np.unique(listing.video[listing.split == 0])
    if len(training) < MIN_TRAINING_VIDEOS:
        raise InputError(
            f"the dataset lists one training video ({listing.names[training[0]]!r}): list at "
            f"least {MIN_TRAINING_VIDEOS}, because a model of one video does not generalise"
        )


def _check_shapes(listing: Listing) -> None:
    n = len(listing.video)
    shapes = (listing.frame.shape, listing.values.shape, listing.mask.shape)
    assert shapes == ((n,), (n, len(LABEL_COLUMNS)), (n, len(LABEL_COLUMNS))), shapes
    assert len(listing.names) == len(listing.splits) == len(listing.subjects)


def _check_videos(listing: Listing) -> None:
    split_of: dict[str, str] = {}
    for name, split in zip(listing.names, listing.splits, strict=True):
        if split not in SPLITS:
            raise InputError(f"video {name!r} has split {split!r}: it must be one of {SPLITS}")
        if name in split_of:
            repetition = (
                f"in two splits, {split_of[name]} and {split}"
                if split_of[name] != split
                else f"twice in the {split} split"
            )
            raise InputError(f"video {name!r} is {repetition}: list it once")
        split_of[name] = split


def _check_frames(listing: Listing) -> None:
    key = pack(listing.video, listing.frame)
    order = np.argsort(key, kind="stable")
    duplicates = np.flatnonzero(key[order][1:] == key[order][:-1])
    if len(duplicates):
        row = order[duplicates[0] + 1]
        raise InputError(
            f"frame {listing.frame[row]} of video {listing.names[listing.video[row]]!r} is listed "
            "twice: keep one of the rows"
        )
    if (np.diff(listing.split) < 0).any():
        raise InputError("the listed frames must come in the order train, validation, test")


def pack(video: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Return a sort key of each row, to sort rows by video and then by frame number.

    Args:
        video: Index of each row's video, at least 0, shape (rows,).
        frame: Frame number of each row, from 0 to 2^31 - 1, shape (rows,).

    Returns:
        The keys, int64, shape (rows,); rows of the same video and frame have equal keys.
    """
    return (video.astype(np.int64) << 32) | frame.astype(np.int64)


def count(listing: Listing) -> dict[str, Any]:
    """Count the videos, the frames and the frames with a label of each task, for each split.

    A frame counts as labelled with action units if at least one unit is labelled.

    Returns:
        For each split, by its name, a dict with the numbers of ``videos`` and of ``frames``, and
        with ``labelled``: a dict with the number of labelled frames by the task's name.
    """
    counts = {}
    for index, split in enumerate(SPLITS):
        rows = listing.mask[listing.split == index]
        counts[split] = {
            "videos": listing.splits.count(split),
            "frames": len(rows),
            "labelled": {t.name: int(rows[:, t.labels].any(1).sum()) for t in TASKS.values()},
        }
    return counts


def tables(listing: Listing) -> tuple[pa.Table, pa.Table]:
    """Return the Arrow tables of ``labels.parquet`` and ``videos.parquet`` for a listing.

    Args:
        listing: All frames named in the annotation files, with their labels.

    Returns:
        A table with the video, frame number and labels of each frame, null for a missing label, and
        a table with the name, split and subject of each video.
    """
    labels = {"video": pa.array(listing.names).take(pa.array(listing.video))}
    labels["frame"] = pa.array(listing.frame, pa.int32())
    for i, column in enumerate(LABEL_COLUMNS):
        dtype = np.float32 if column in ("valence", "arousal") else np.int8
        values = np.where(listing.mask[:, i], listing.values[:, i], 0).astype(dtype)
        labels[column] = pa.array(values, mask=~listing.mask[:, i])
    videos = {"video": listing.names, "split": listing.splits, "subject": listing.subjects}
    return pa.table(labels), pa.table({k: pa.array(v, pa.string()) for k, v in videos.items()})


def from_tables(labels: pa.Table, videos: pa.Table) -> Listing:
    """Return the listing (all frames named in the annotation files) that two Arrow tables hold.

    Args:
        labels: Table of ``labels.parquet``: video, frame number and labels of each frame. Without
            label columns every label is missing.
        videos: Table of ``videos.parquet``: name, split and subject of each video.

    Raises:
        InputError: If a listed frame's video is not in ``videos``.
    """
    names = videos["video"].to_pylist()
    video = pc.index_in(labels["video"], value_set=pa.array(names, pa.string()))
    if video.null_count:
        row = video.is_null().index(True).as_py()
        raise InputError(
            f"labels.parquet row {row + 1}: video {labels['video'][row].as_py()!r} is not in "
            "videos.parquet; prepare the dataset again"
        )
    listing = Listing.unlabelled(
        names=tuple(names),
        splits=tuple(videos["split"].to_pylist()),
        subjects=tuple(videos["subject"].to_pylist()),
        video=video.to_numpy().astype(np.int32),
        frame=labels["frame"].to_numpy().astype(np.int32),
    )
    if LABEL_COLUMNS[0] not in labels.column_names:
        return listing
    columns = [labels[c] for c in LABEL_COLUMNS]
    return replace(
        listing,
        values=np.stack([c.fill_null(0).to_numpy() for c in columns], 1).astype(np.float32),
        mask=np.stack([c.is_valid().to_numpy() for c in columns], 1),
    )
