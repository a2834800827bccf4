"""One feature set on its way to disk: checked, streamed to Parquet parts, measured and hashed."""

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
PART_BYTES = 1 << 30
DTYPES = ("float16", "float32", "uint8")


class FeatureSetWriter:
    """One feature set on its way to disk: buffered rows, parts, statistics, counts, digest."""

    def __init__(self, draft: Path, name: str, listing: Listing) -> None:
        self.name = name
        self.folder = draft / "features" / name
        self.folder.mkdir(parents=True)
        self.listed = _listed_frames(listing)
        self.split_of = dict(zip(listing.names, listing.splits, strict=True))
        self.without = dict.fromkeys(SPLITS, 0)
        for video, frames in self.listed.items():
            self.without[self.split_of[video]] += len(frames)
        self.unlisted = 0
        self.rows = 0
        self.videos = 0
        self.parts: list[dict[str, Any]] = []
        self.type: tuple[str, int] | None = None
        self.moments = Moments()
        self.sha = hashlib.sha256()
        self.digest = ""

    def write(self, blocks: Iterable[VideoFeatures]) -> "FeatureSetWriter":
        """Take all videos in; InputError names the set, video and frame that break a rule."""
        writer: pq.ParquetWriter | None = None
        try:
            for table in self._tables(self._checked(blocks)):
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
        self.digest = self.sha.hexdigest()
        return self

    def entry(self) -> dict[str, Any]:
        """This set's part of ``dataset.json``."""
        assert self.type is not None
        dtype, width = self.type
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

    def _checked(self, blocks: Iterable[VideoFeatures]) -> Iterator[VideoFeatures]:
        last = None
        for video, frames, values in blocks:
            if last is not None and video <= last:
                raise InputError(
                    f"feature set {self.name!r}: video {video!r} comes after {last!r}; videos must "
                    "come once each, in name order"
                )
            last = video
            if video not in self.split_of:
                self.unlisted += len(frames)
            elif len(frames):
                frames, values = np.asarray(frames, np.int32), np.ascontiguousarray(values)
                self._check(video, frames, values)
                self._take(video, frames, values)
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
        found = (values.dtype.name, values.shape[1])
        self.type = self.type or found
        if found != self.type:
            raise InputError(
                f"{where}: {found[1]} features of {found[0]} per frame, but {self.type[1]} of "
                f"{self.type[0]} before; all videos of a set must agree"
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

    def _take(self, video: str, frames: np.ndarray, values: np.ndarray) -> None:
        """Count, hash and measure one video."""
        self.rows += len(frames)
        self.videos += 1
        self.sha.update(f"{video}\0{self.type}\0{len(frames)}\0".encode())
        self.sha.update(frames.astype("<i4").tobytes())
        self.sha.update(values.astype(values.dtype.newbyteorder("<"), copy=False).data)
        split = self.split_of[video]
        seen = np.isin(frames, self.listed.get(video, frames[:0]))
        self.without[split] -= int(seen.sum())
        if split == "train":
            self.moments.add(values[seen])

    def _tables(self, blocks: Iterable[VideoFeatures]) -> Iterator[pa.Table]:
        """Tables of up to BATCH_ROWS rows, so that short videos share a row group."""
        held: list[VideoFeatures] = []
        for block in blocks:
            if held and sum(len(frames) for _, frames, _ in [*held, block]) > BATCH_ROWS:
                yield _table(held)
                held = []
            held.append(block)
        if held:
            yield _table(held)

    def _new_part(self, schema: pa.Schema) -> pq.ParquetWriter:
        path = self.folder / f"part-{len(self.parts):05d}.parquet"
        self.parts.append({"file": f"features/{self.name}/{path.name}", "group_rows": []})
        assert self.type is not None
        # Floats hardly repeat, 256 byte values do: the dictionary makes binary features small.
        columns = ["video", "feature.list.element"] if self.type[0] == "uint8" else ["video"]
        return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=columns)

    def _count_groups(self, rows: int) -> None:
        full, rest = divmod(rows, BATCH_ROWS)
        self.parts[-1]["group_rows"] += [BATCH_ROWS] * full + [rest] * (rest > 0)

    def _row_bytes(self) -> int:
        assert self.type is not None
        return self.type[1] * np.dtype(self.type[0]).itemsize

    def _require_training_frames(self) -> None:
        listed = sum(len(frames) for frames in self.listed.values())
        if sum(self.without.values()) == listed:
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
    """Mean and population variance of rows that come in blocks (Chan et al. 1979), in float64."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = np.zeros(0)
        self.squares = np.zeros(0)

    def add(self, values: np.ndarray) -> None:
        """Take in rows (n, F)."""
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
        """Population standard deviation, (F,); 1 where the feature is constant in float32."""
        std = np.sqrt(self.squares / max(self.n, 1))
        return np.where(std <= 1e-6 * np.abs(self.mean), 1.0, std)


def _listed_frames(listing: Listing) -> dict[str, np.ndarray]:
    order = np.argsort(listing.video, kind="stable")
    videos, starts = np.unique(listing.video[order], return_index=True)
    frames = np.split(listing.frame[order], starts[1:])
    return {listing.names[v]: f for v, f in zip(videos, frames, strict=True)}


def _table(blocks: list[VideoFeatures]) -> pa.Table:
    names = [video for video, frames, _ in blocks for _ in range(len(frames))]
    values = np.concatenate([v for _, _, v in blocks])
    feature = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    frames = pa.array(np.concatenate([f for _, f, _ in blocks]), pa.int32())
    return pa.table({"video": pa.array(names, pa.string()), "frame": frames, "feature": feature})
