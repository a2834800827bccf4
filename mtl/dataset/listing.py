"""The listed frames: their order, splits, subjects and labels, as arrays and as Parquet tables."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mtl.errors import InputError
from mtl.tasks import LABEL_COLUMNS, TASKS

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Listing:
    """The listed frames, in the order of the files: train, validation, test.

    Attributes:
        names: The video names; ``splits`` and ``subjects`` run beside them.
        splits: The split of each video, one of ``SPLITS``.
        subjects: Who is seen in each video (the video's name where that is unknown).
        video: Index into ``names`` of each listed frame, int32, shape (N,).
        frame: Frame number within the video, int32, shape (N,).
        values: Labels in the columns ``LABEL_COLUMNS``, float32, shape (N, 15); 0 where unknown.
        mask: Which labels are known, bool, shape (N, 15).
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
        """The split of each listed frame as an index into ``SPLITS``, int8, shape (N,)."""
        return np.asarray(np.array([SPLITS.index(s) for s in self.splits], np.int8)[self.video])

    def take(self, rows: slice | np.ndarray) -> "Listing":
        """Some of its frames, with their videos alone."""
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
        """Frames of which no label is known; the labels take no memory."""
        shape = (len(frame), len(LABEL_COLUMNS))
        values, mask = np.broadcast_to(np.float32(0), shape), np.broadcast_to(np.False_, shape)
        return cls(names, splits, subjects, video, frame, values, mask)


def check_listing(listing: Listing) -> None:
    """Raise InputError where a listing can neither be trained on nor, having test frames alone,
    only be predicted, naming the video or frame.
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
    if len(training) < 2:
        raise InputError(
            f"the dataset lists one training video ({listing.names[training[0]]!r}): list at "
            "least 2, for one video says nothing about others"
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
            where = (
                f"in two splits, {split_of[name]} and {split}"
                if split_of[name] != split
                else f"twice in the {split} split"
            )
            raise InputError(f"video {name!r} is {where}: list it once")
        split_of[name] = split


def _check_frames(listing: Listing) -> None:
    key = pack(listing.video, listing.frame)
    order = np.argsort(key, kind="stable")
    again = np.flatnonzero(key[order][1:] == key[order][:-1])
    if len(again):
        row = order[again[0] + 1]
        raise InputError(
            f"frame {listing.frame[row]} of video {listing.names[listing.video[row]]!r} is listed "
            "twice: keep one of the rows"
        )
    if (np.diff(listing.split) < 0).any():
        raise InputError("the listed frames must come in the order train, validation, test")


def pack(video: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """One int64 per row, shape (N,), that sorts by video, then by frame (both >= 0)."""
    return (video.astype(np.int64) << 32) | frame.astype(np.int64)


def count(listing: Listing) -> dict[str, Any]:
    """Videos, frames and labelled frames per task of each split (any unit: action units)."""
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
    """``labels.parquet`` (nulls where unknown) and ``videos.parquet``."""
    labels = {"video": pa.array(listing.names).take(pa.array(listing.video))}
    labels["frame"] = pa.array(listing.frame, pa.int32())
    for i, column in enumerate(LABEL_COLUMNS):
        dtype = np.float32 if column in ("valence", "arousal") else np.int8
        values = np.where(listing.mask[:, i], listing.values[:, i], 0).astype(dtype)
        labels[column] = pa.array(values, mask=~listing.mask[:, i])
    videos = {"video": listing.names, "split": listing.splits, "subject": listing.subjects}
    return pa.table(labels), pa.table({k: pa.array(v, pa.string()) for k, v in videos.items()})


def from_tables(labels: pa.Table, videos: pa.Table) -> Listing:
    """The listing that ``tables`` wrote; InputError where a label's video is in no row.

    Without label columns no label is known.
    """
    names = videos["video"].to_pylist()
    found = pc.index_in(labels["video"], value_set=pa.array(names, pa.string()))
    if found.null_count:
        row = found.is_null().index(True).as_py()
        raise InputError(
            f"labels.parquet row {row + 1}: video {labels['video'][row].as_py()!r} is not in "
            "videos.parquet; prepare the dataset again"
        )
    listing = Listing.unlabelled(
        names=tuple(names),
        splits=tuple(videos["split"].to_pylist()),
        subjects=tuple(videos["subject"].to_pylist()),
        video=found.to_numpy().astype(np.int32),
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
