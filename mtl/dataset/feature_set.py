"""Writer of one feature set: checks, Parquet part files, statistics and content hash."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtl.dataset.listing import SPLITS, Listing
from mtl.dataset.parquet import BATCH_ROWS, first_non_finite
from mtl.errors import InputError

VideoFeatures = tuple[str, np.ndarray, np.ndarray]
"""Features of one video: video name, n frame numbers, (n,), and F features per frame, (n, F)."""
PART_BYTES = 1 << 30
"""Uncompressed bytes of features in a Parquet part file after which the next part is started."""
DTYPES = ("float16", "float32", "uint8")
"""Names of the NumPy types in which features may be stored."""
CONSTANT_FEATURE_TOLERANCE = 1e-6
"""Largest ratio of standard deviation to absolute mean of a feature that counts as constant."""


class FeatureSetWriter:
    """Writer of one feature set (one feature vector per frame) of a dataset directory.

    Attributes:
        name: Name of the feature set.
        folder: Folder of the Parquet part files.
        listed_frames: Frame numbers that the annotation files name, for each video.
        split_of: Split (train, validation or test) of each video in the annotation files.
        missing_frames: Number of listed frames without features, for each split.
        unlisted_rows: Number of rows left out because no annotation file names their video.
        rows: Number of rows written.
        videos: Number of videos written.
        parts: Path of each part file and number of rows of each of its row groups, as
            ``dataset.json`` records them.
        value_type: Type name and number of features per frame (F); None before the first video.
        moments: Mean and variance of each feature over the listed training frames.
        hasher: SHA-256 of the videos, frames and features written so far.
        digest: Hexadecimal SHA-256 of the whole feature set; empty before ``write`` returns.
    """

    def __init__(self, draft: Path, name: str, listing: Listing) -> None:
        self.name = name
        self.folder = draft / "features" / name
        self.folder.mkdir(parents=True)
        self.listed_frames = _listed_frames(listing)
        self.split_of = dict(zip(listing.names, listing.splits, strict=True))
        self.missing_frames = dict.fromkeys(SPLITS, 0)
        for video, frames in self.listed_frames.items():
            self.missing_frames[self.split_of[video]] += len(frames)
        self.unlisted_rows = 0
        self.rows = 0
        self.videos = 0
        self.parts: list[dict[str, Any]] = []
        self.value_type: tuple[str, int] | None = None
        self.moments = Moments()
        self.hasher = hashlib.sha256()
        self.digest = ""

    def write(self, videos: Iterable[VideoFeatures]) -> "FeatureSetWriter":
        """Check and write the features of all videos.

        Args:
            videos: Name, ascending frame numbers and features of each video, in name order.

        Returns:
            This writer.

        Raises:
            InputError: If a video, frame or feature breaks a rule of the format, or there are no
                features for any listed frame, or for any listed training frame; the message names
                the feature set, video and frame.
        """
        writer: pq.ParquetWriter | None = None
        try:
            for table in self._tables(self._checked_videos(videos)):
                if writer is None:
                    writer = self._new_part(table.schema)
                writer.write_table(table, row_group_size=BATCH_ROWS)
                self._count_groups(table.num_rows)
                if sum(self.parts[-1]["group_rows"]) * self._row_bytes() >= PART_BYTES:
                    writer.close()
                    writer = None
        finally:
            if writer is not None:
                writer.close()
        self._require_training_frames()
        self.digest = self.hasher.hexdigest()
        return self

    def entry(self) -> dict[str, Any]:
        """Return the record of this feature set for ``dataset.json``.

        Returns:
            A dict with ``dtype`` (type name), ``width`` (features per frame), ``rows`` and
            ``videos`` (numbers written), ``parts`` (a list with a record of each part file), and
            ``mean`` and ``std`` (lists with one number for each feature, computed over the listed
            training frames).
        """
        assert self.value_type is not None
        dtype, width = self.value_type
        numbers = {"mean": self.moments.mean, "std": self.moments.std()}
        return {
            "dtype": dtype,
            "width": width,
            "rows": self.rows,
            "videos": self.videos,
            "parts": self.parts,
            # str() of a float32 is the shortest text that reads back as the same float32.
            **{k: [float(str(x)) for x in v.astype(np.float32)] for k, v in numbers.items()},
        }

    def _checked_videos(self, videos: Iterable[VideoFeatures]) -> Iterator[VideoFeatures]:
        last = None
        for video, frames, values in videos:
            if last is not None and video <= last:
                raise InputError(
                    f"feature set {self.name!r}: video {video!r} comes after {last!r}; videos must "
                    "come once each, in name order"
                )
            last = video
            if video not in self.split_of:
                self.unlisted_rows += len(frames)
            elif len(frames):
                frames, values = np.asarray(frames, np.int32), np.ascontiguousarray(values)
                self._check(video, frames, values)
                self._record(video, frames, values)
                yield video, frames, values

    def _check(self, video: str, frames: np.ndarray, values: np.ndarray) -> None:
        where = f"feature set {self.name!r}, video {video!r}"
        if values.ndim != 2 or len(values) != len(frames) or not values.shape[1]:
            raise InputError(
                f"{where}: {len(frames)} frames come with values of shape {values.shape}; it must "
                "be (frames, features)"
            )
        if values.dtype.name not in DTYPES:
            raise InputError(f"{where}: values are {values.dtype}; use one of {', '.join(DTYPES)}")
        value_type = (values.dtype.name, values.shape[1])
        self.value_type = self.value_type or value_type
        if value_type != self.value_type:
            raise InputError(
                f"{where}: {value_type[1]} features of {value_type[0]} per frame, but "
                f"{self.value_type[1]} of {self.value_type[0]} before; all videos of a set must "
                "agree"
            )
        self._check_frames(where, frames)
        bad = first_non_finite(values)
        if bad is not None:
            raise InputError(
                f"{where}, frame {frames[bad[0]]}: feature {bad[1] + 1} is {values[bad]}; every "
                "feature must be finite"
            )

    def _check_frames(self, where: str, frames: np.ndarray) -> None:
        wrong = np.flatnonzero(np.diff(frames) <= 0)
        if len(wrong):
            before, after = frames[wrong[0]], frames[wrong[0] + 1]
            raise InputError(
                f"{where}: frame {after} comes after {before}; frames must ascend, each once"
            )

    def _record(self, video: str, frames: np.ndarray, values: np.ndarray) -> None:
        """Add the features of one video to the row counts, the content hash and the statistics."""
        self.rows += len(frames)
        self.videos += 1
        self.hasher.update(f"{video}\0{self.value_type}\0{len(frames)}\0".encode())
        self.hasher.update(frames.astype("<i4").tobytes())
        self.hasher.update(values.astype(values.dtype.newbyteorder("<"), copy=False).data)
        split = self.split_of[video]
        is_listed = np.isin(frames, self.listed_frames.get(video, frames[:0]))
        self.missing_frames[split] -= int(is_listed.sum())
        if split == "train":
            self.moments.add(values[is_listed])

    def _tables(self, videos: Iterable[VideoFeatures]) -> Iterator[pa.Table]:
        """Combine videos into Arrow tables of about ``BATCH_ROWS`` rows, in the same order.

        In this way short videos share a row group of the Parquet file.
        """
        buffered: list[VideoFeatures] = []
        for video in videos:
            if buffered and sum(len(frames) for _, frames, _ in [*buffered, video]) > BATCH_ROWS:
                yield _table(buffered)
                buffered = []
            buffered.append(video)
        if buffered:
            yield _table(buffered)

    def _new_part(self, schema: pa.Schema) -> pq.ParquetWriter:
        path = self.folder / f"part-{len(self.parts):05d}.parquet"
        self.parts.append({"file": f"features/{self.name}/{path.name}", "group_rows": []})
        assert self.value_type is not None
        # A dictionary compresses bytes, which have 256 values, but not floats, which rarely repeat.
        columns = ["video", "feature.list.element"] if self.value_type[0] == "uint8" else ["video"]
        return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=columns)

    def _count_groups(self, rows: int) -> None:
        full, rest = divmod(rows, BATCH_ROWS)
        self.parts[-1]["group_rows"] += [BATCH_ROWS] * full + [rest] * (rest > 0)

    def _row_bytes(self) -> int:
        assert self.value_type is not None
        return self.value_type[1] * np.dtype(self.value_type[0]).itemsize

    def _require_training_frames(self) -> None:
        listed = sum(len(frames) for frames in self.listed_frames.values())
        if sum(self.missing_frames.values()) == listed:
            raise InputError(
                f"feature set {self.name!r} has none of the {listed} listed frames: check that its "
                "videos and frame numbers are those of the annotation files"
            )
        if not self.moments.n and "train" in self.split_of.values():
            raise InputError(
                f"feature set {self.name!r} has none of the listed training frames: extract "
                "them too"
            )


class Moments:
    """Running mean and population variance of each of F features, in float64 (Chan et al. 1979).

    Attributes:
        n: Number of rows added.
        mean: Mean of each feature, (F,).
        squares: Sum of squared deviations from the mean of each feature, (F,).
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean = np.zeros(0)
        self.squares = np.zeros(0)

    def add(self, values: np.ndarray) -> None:
        """Update the mean and the variance with rows of features, shape (rows, F)."""
        if not len(values):
            return
        block = values.astype(np.float64)
        mean = block.mean(0)
        squares = np.square(block - mean).sum(0)
        if not self.n:
            self.n, self.mean, self.squares = len(block), mean, squares
            return
        total = self.n + len(block)
        step = mean - self.mean
        self.squares = self.squares + squares + np.square(step) * (self.n * len(block) / total)
        self.mean = self.mean + step * (len(block) / total)
        self.n = total

    def std(self) -> np.ndarray:
        """Return the standard deviation (population) of each feature, (F,); 1 if it is constant."""
        std = np.sqrt(self.squares / max(self.n, 1))
        return np.where(std <= CONSTANT_FEATURE_TOLERANCE * np.abs(self.mean), 1.0, std)


def _listed_frames(listing: Listing) -> dict[str, np.ndarray]:
    order = np.argsort(listing.video, kind="stable")
    videos, starts = np.unique(listing.video[order], return_index=True)
    frames = np.split(listing.frame[order], starts[1:])
    return {listing.names[v]: f for v, f in zip(videos, frames, strict=True)}


def _table(videos: list[VideoFeatures]) -> pa.Table:
    names = [video for video, frames, _ in videos for _ in range(len(frames))]
    values = np.concatenate([v for _, _, v in videos])
    feature = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    frames = pa.array(np.concatenate([f for _, f, _ in videos]), pa.int32())
    return pa.table({"video": pa.array(names, pa.string()), "frame": frames, "feature": feature})
