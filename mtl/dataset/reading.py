"""Reader of a dataset directory (labels and feature sets of video frames).

It reads the frames named in the annotation files, the video and frame number of each row of a
feature set, and ranges of rows of features.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mtl.dataset import parquet, storage
from mtl.dataset.listing import Listing, check_listing, from_tables
from mtl.dataset.parquet import FeatureFile
from mtl.errors import InputError, brief

FORMAT = 1
"""Version number of the dataset directory's file format that this program reads and writes."""


@dataclass(frozen=True, eq=False)
class FeatureIndex:
    """Lookup from video and frame number to the row of a feature set.

    The rows are sorted by video name, then by frame number.

    Attributes:
        names: Names of the V videos that have features, in name order.
        starts: First row of each video, followed by the number of rows R, int64, shape (V + 1,).
        frames: Frame number of each row, int32, shape (R,).
    """

    names: tuple[str, ...]
    starts: np.ndarray
    frames: np.ndarray


@dataclass(frozen=True, eq=False)
class Dataset:
    """Opened dataset directory; features and labels are read only when a method is called.

    Attributes:
        address: The directory, a local path or an ``s3://`` address.
        info: Content of ``dataset.json``.
    """

    address: str
    info: dict[str, Any] = field(repr=False)

    @property
    def hash(self) -> str:
        """Hash of the dataset's content: listed frames, labels and features."""
        return str(self.info["hash"])

    def feature_sets(self) -> tuple[str, ...]:
        """Return the names of the feature sets."""
        return tuple(self.info["features"])

    def width(self, name: str) -> int:
        """Return the number of features per frame (F) of a feature set."""
        return int(self._entry(name)["width"])

    def statistics(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and standard deviation of each feature over the training frames.

        Args:
            name: Name of the feature set.

        Returns:
            The means and the standard deviations, float32, shape (features,) each, over the
            training frames that the annotation files name. The standard deviation of a constant
            feature is 1; all values are NaN if there are no training frames.
        """
        entry = self._entry(name)
        if not entry["mean"]:
            unknown = np.full(self.width(name), np.nan, np.float32)
            return unknown, unknown
        return np.array(entry["mean"], np.float32), np.array(entry["std"], np.float32)

    def listing(self, labels: bool = True) -> Listing:
        """Read the frames that the annotation files name, with their labels, in file order.

        Args:
            labels: If False, the labels are not read and every label counts as missing.

        Raises:
            InputError: If a row breaks a rule of the format; the message names the row or video.
        """
        columns = None if labels else ["video", "frame"]
        listing = from_tables(self._table("labels.parquet", columns), self._table("videos.parquet"))
        check_listing(listing)
        return listing

    def index(self, name: str) -> FeatureIndex:
        """Read the video and frame number of each row of a feature set, without the features.

        Args:
            name: Name of the feature set.

        Raises:
            InputError: If rows are out of order or a frame occurs twice; the message names the file
                and row.
        """
        files = self._files(name)
        keys = parquet.read_keys(files)
        disorder = np.flatnonzero(np.diff(keys.packed) <= 0)
        if len(disorder):
            raise InputError(
                f"{parquet.row_location(files, int(disorder[0]) + 1)}: rows must be sorted by "
                "video and frame, each once; prepare the dataset again"
            )
        starts = np.searchsorted(keys.video, np.arange(len(keys.names) + 1))
        return FeatureIndex(keys.names, starts.astype(np.int64), keys.frame)

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Read the features of rows [start, stop) of a feature set.

        Args:
            name: Name of the feature set.
            start: First row, counted over all part files from 0.
            stop: Row after the last.

        Returns:
            Features in stored precision (float16, float32 or uint8), shape
            (stop - start, features).

        Raises:
            InputError: If a feature is NaN or infinite; the message names the file and row.
            IndexError: If the feature set has no such rows.
        """
        files = self._files(name)
        rows = sum(file.rows for file in files)
        if not 0 <= start <= stop <= rows:
            raise IndexError(f"rows [{start}, {stop}) of a set of {rows}")
        values = np.empty((stop - start, self.width(name)), self._entry(name)["dtype"])
        first = 0
        for file in files:
            if first < stop and start < first + file.rows:
                _read_file(file, first - start, values)
            first += file.rows
        return values

    def _entry(self, name: str) -> dict[str, Any]:
        if name not in self.info["features"]:
            raise InputError(
                f"the dataset {self.address} has no feature set {name!r}: it has "
                f"{', '.join(self.feature_sets())}"
            )
        entry: dict[str, Any] = self.info["features"][name]
        return entry

    def _files(self, name: str) -> list[FeatureFile]:
        entry = self._entry(name)
        filesystem, root = storage.resolve(self.address)
        dtype = np.dtype(entry["dtype"])
        return [
            FeatureFile(
                filesystem,
                f"{root}/{part['file']}",
                f"{self.address}/{part['file']}",
                dtype,
                entry["width"],
                tuple(part["group_rows"]),
            )
            for part in entry["parts"]
        ]

    def _table(self, file: str, columns: list[str] | None = None) -> pa.Table:
        filesystem, root = storage.resolve(self.address)
        shown = f"{self.address}/{file}"
        with parquet.parquet_file(filesystem, f"{root}/{file}", shown) as reader:
            return reader.read(columns)


def _read_file(file: FeatureFile, offset: int, out: np.ndarray) -> None:
    """Copy features from one part file of a feature set into an array.

    Args:
        file: Part file to read.
        offset: Row of ``out`` for the first row of the file; negative if the file has rows before
            those that ``out`` holds. Rows outside ``out`` are skipped.
        out: Array to fill: consecutive rows of the feature set, shape (rows, features).
    """
    with parquet.parquet_file(file.filesystem, file.path, file.shown) as reader:
        row = 0
        for group, rows in enumerate(file.group_rows):
            if offset + row < len(out) and offset + row + rows > 0:
                _read_group(reader, group, file, row, out, offset + row)
            row += rows


def _read_group(
    reader: pq.ParquetFile, group: int, file: FeatureFile, row: int, out: np.ndarray, at: int
) -> None:
    for chunk in reader.read_row_group(group, columns=["feature"])["feature"].chunks:
        values = parquet.matrix(chunk, file, row)
        low, high = max(at, 0), min(at + len(values), len(out))
        if low < high:
            out[low:high] = values[low - at : high - at]
        at += len(values)
        row += len(values)


def open_dataset(address: str | Path) -> Dataset:
    """Open a dataset directory, after checking that its files are complete.

    Args:
        address: The directory, a local path or an ``s3://`` address.

    Raises:
        InputError: If ``dataset.json`` cannot be read, or a file that it names is missing, has
            another size than recorded, or has a footer that differs from the record; the message
            names the file.
    """
    address = str(address).rstrip("/") if "://" in str(address) else str(Path(address).expanduser())
    dataset = Dataset(address, _read_info(address))
    for entry in dataset.info["files"]:
        _check_size(address, entry)
    for name in dataset.feature_sets():
        for file in dataset._files(name):
            _check_footer(file)
    return dataset


def _read_info(address: str) -> dict[str, Any]:
    filesystem, root = storage.resolve(address)
    shown = f"{address}/dataset.json"
    if not storage.info(filesystem, f"{root}/dataset.json", shown).is_file:
        raise InputError(
            f"{address} is no dataset: it has no dataset.json; make one with sweeps/prepare.py"
        )
    try:
        with filesystem.open_input_stream(f"{root}/dataset.json") as stream:
            info: dict[str, Any] = json.loads(stream.read())
    except (OSError, pa.ArrowException, ValueError) as error:
        raise InputError(
            f"cannot read {shown} ({brief(error)}): prepare the dataset again"
        ) from None
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        version = info.get("format") if isinstance(info, dict) else type(info).__name__
        raise InputError(
            f"{shown} has format {version!r}, this program reads {FORMAT}: "
            "prepare the dataset again"
        )
    return info


def _check_size(address: str, entry: dict[str, Any]) -> None:
    filesystem, root = storage.resolve(address)
    shown = f"{address}/{entry['file']}"
    found = storage.info(filesystem, f"{root}/{entry['file']}", shown)
    if not found.is_file:
        raise InputError(f"{shown} is missing: copy it again or prepare the dataset again")
    if found.size != entry["bytes"]:
        raise InputError(
            f"{shown} has {found.size} bytes, but dataset.json records {entry['bytes']} (it is cut "
            "short or changed): copy it again or prepare the dataset again"
        )


def _check_footer(file: FeatureFile) -> None:
    found = parquet.open_feature_file(file.filesystem, file.path, file.shown)
    recorded = (file.dtype, file.width, file.group_rows)
    if (found.dtype, found.width, found.group_rows) != recorded:
        raise InputError(
            f"{file.shown} holds {found.rows} rows of {found.width} x {found.dtype}, but "
            f"dataset.json records {file.rows} of {file.width} x {file.dtype}: prepare it again"
        )
