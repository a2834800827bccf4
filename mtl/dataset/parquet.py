"""Checked reading of Parquet feature files with the columns ``video, frame, feature``.

Messages count rows from 1. Features are float16, float32 or uint8; float64 is also accepted and
read as float32.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mtl.dataset.listing import pack
from mtl.errors import InputError, brief

VALUE_TYPES: dict[pa.DataType, np.dtype] = {
    pa.uint8(): np.dtype(np.uint8),
    pa.float16(): np.dtype(np.float16),
    pa.float32(): np.dtype(np.float32),
    pa.float64(): np.dtype(np.float32),
}
"""NumPy type in which features are read, by Arrow type in the file; other types are refused."""
BATCH_ROWS = 8192
"""Number of rows read or written at a time, and of a row group in a written Parquet file."""
KEY_BATCH_ROWS = 1 << 16
"""Number of rows read at a time if only the columns ``video`` and ``frame`` are read."""
PARQUET_MAGIC = b"PAR1"
"""First four bytes of every Parquet file."""


@dataclass(frozen=True)
class FeatureFile:
    """One Parquet file of features after a check of its columns; the rows are not in memory.

    Attributes:
        filesystem: File system that holds the file.
        path: Path of the file on that file system.
        shown: Name of the file in messages.
        dtype: Type in which the features are read.
        width: Features per row (F); 0 if the file is empty and its schema has no list size.
        group_rows: Number of rows of each row group.
    """

    filesystem: pafs.FileSystem
    path: str
    shown: str
    dtype: np.dtype
    width: int
    group_rows: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of rows of the file."""
        return sum(self.group_rows)


class FeatureRows(NamedTuple):
    """Some consecutive rows (n) of a feature file, in memory.

    Attributes:
        row: Index of the first of these rows in the file, from 0.
        video: Video name of each row, dictionary-encoded, n values.
        frame: Frame numbers, int32, shape (n,).
        values: Features, shape (n, F).
    """

    row: int
    video: pa.Array
    frame: np.ndarray
    values: np.ndarray


@contextmanager
def parquet_file(filesystem: pafs.FileSystem, path: str, shown: str) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file for reading, as a context manager that closes the file at the end.

    Args:
        filesystem: File system that holds the file.
        path: Path of the file on that file system.
        shown: Name of the file in messages.

    Yields:
        The open file.

    Raises:
        InputError: If the file cannot be opened, or reading it inside the context fails.
    """
    try:
        # With pre_buffer Arrow holds the whole file in memory, without it one row group.
        with (
            filesystem.open_input_file(path) as stream,
            pq.ParquetFile(stream, pre_buffer=False) as file,
        ):
            yield file
    except InputError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{shown} {_damage_reason(filesystem, path)} ({brief(error)})") from None


def _damage_reason(filesystem: pafs.FileSystem, path: str) -> str:
    try:
        with filesystem.open_input_stream(path) as stream:
            has_magic = stream.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except OSError:
        return "cannot be read: check that it is there and readable"
    if has_magic:
        return "is cut short or damaged: copy or make it again"
    return "is no Parquet file: give a file with the columns video, frame, feature"


def open_feature_file(filesystem: pafs.FileSystem, path: str, shown: str) -> FeatureFile:
    """Read the footer of a feature file and check its columns.

    Args:
        filesystem: File system that holds the file.
        path: Path of the file on that file system.
        shown: Name of the file in messages.

    Returns:
        The path, feature type, number of features per row and row counts of the file.

    Raises:
        InputError: If a column is missing or has a wrong type, or the features are empty; the
            message names the file and the column.
    """
    with parquet_file(filesystem, path, shown) as file:
        schema = file.schema_arrow
        for column in ("video", "frame", "feature"):
            if schema.names.count(column) != 1:
                raise InputError(
                    f"{shown} must have one column {column!r} but has the columns "
                    f"{', '.join(schema.names)}"
                )
        _check_types(schema, shown)
        feature = schema.field("feature").type
        groups = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
        width = feature.list_size if pa.types.is_fixed_size_list(feature) else _first_width(file)
        dtype = VALUE_TYPES[feature.value_type]
    if not width and sum(groups):
        raise InputError(f"{shown} row 1: the feature is empty; every row needs its features")
    return FeatureFile(filesystem, path, shown, dtype, width, groups)


def _first_width(file: pq.ParquetFile) -> int:
    for batch in file.iter_batches(batch_size=1, columns=["feature"]):
        return len(batch.column(0)[0].as_py() or [])
    return 0


def _check_types(schema: pa.Schema, shown: str) -> None:
    video, frame, feature = (schema.field(c).type for c in ("video", "frame", "feature"))
    text = video.value_type if pa.types.is_dictionary(video) else video
    if not any(t(text) for t in (pa.types.is_string, pa.types.is_large_string, _is_string_view)):
        raise InputError(f"{shown}: column 'video' is {video}; it must be string")
    if not pa.types.is_integer(frame):
        raise InputError(f"{shown}: column 'frame' is {frame}; it must be int32")
    lists = (pa.types.is_fixed_size_list, pa.types.is_list, pa.types.is_large_list)
    if not any(t(feature) for t in lists) or feature.value_type not in VALUE_TYPES:
        raise InputError(
            f"{shown}: column 'feature' is {feature}; it must be a fixed-size list of float16, "
            "float32 or uint8"
        )


def _is_string_view(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(dtype))


def batches(file: FeatureFile) -> Iterator[FeatureRows]:
    """Read the rows of a feature file in order, in batches of up to ``BATCH_ROWS`` rows.

    Args:
        file: The feature file.

    Returns:
        Batches of rows, each with video names, frame numbers and features.

    Raises:
        InputError: If a value is null, a feature is not finite, or rows have different numbers of
            features; the message names the row.
    """
    row = 0
    columns = ["video", "frame", "feature"]
    with parquet_file(file.filesystem, file.path, file.shown) as reader:
        for batch in reader.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            video = _videos(batch.column("video"), file.shown, row)
            frame = _frames(batch.column("frame"), file.shown, row)
            yield FeatureRows(row, video, frame, matrix(batch.column("feature"), file, row))
            row += batch.num_rows


def matrix(feature: pa.Array, file: FeatureFile, row: int) -> np.ndarray:
    """Convert the ``feature`` column of some rows to an array, after checking every value.

    Args:
        feature: Column of n rows, each a list of F features.
        file: File that the column belongs to.
        row: Index of the column's first row in the file, from 0, for messages.

    Returns:
        The features, shape (n, F).

    Raises:
        InputError: If a row is null, has a wrong number of features, or holds a null, NaN or
            infinity; the message names the file and the row.
    """
    _refuse_null(feature, file.shown, row, "feature")
    if not pa.types.is_fixed_size_list(feature.type):
        widths = pc.list_value_length(feature).to_numpy(zero_copy_only=False)
        _check_widths(widths, file, row)
    elif feature.type.list_size != file.width:
        raise InputError(
            f"{file.shown}: its features have length {feature.type.list_size}; the others of the "
            f"set have {file.width}"
        )
    flat = feature.flatten()
    if flat.null_count:
        at = row + flat.is_null().index(True).as_py() // file.width + 1
        raise InputError(f"{file.shown} row {at}: the feature holds a null; give a number")
    values = flat.to_numpy(zero_copy_only=False).reshape(-1, file.width)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, rejected below
        values = values.astype(file.dtype, copy=False)
    bad = first_non_finite(values)
    if bad is not None:
        raise InputError(
            f"{file.shown} row {row + bad[0] + 1}: feature {bad[1] + 1} of {file.width} is "
            f"{values[bad]}; every feature must be finite, extract this frame again or leave it out"
        )
    return np.asarray(values)


def first_non_finite(values: np.ndarray) -> tuple[int, int] | None:
    """Return (row, column) of the first NaN or infinity in a matrix; None if all are finite."""
    if values.dtype == np.uint8 or np.isfinite(values).all():
        return None
    row, column = np.argwhere(~np.isfinite(values))[0]
    return int(row), int(column)


def _check_widths(widths: np.ndarray, file: FeatureFile, row: int) -> None:
    wrong = widths != file.width
    if wrong.any():
        at = int(np.argmax(wrong))
        raise InputError(
            f"{file.shown} row {row + at + 1}: the feature has length {widths[at]}, but the rows "
            f"before have {file.width}; all rows of a feature set must be equally long"
        )


def _refuse_null(column: pa.Array, shown: str, row: int, name: str) -> None:
    if column.null_count:
        at = row + column.is_null().index(True).as_py() + 1
        raise InputError(f"{shown} row {at}: {name} is null; every row needs one")


def _videos(column: pa.Array, shown: str, row: int) -> pa.Array:
    # Decode first: a file's dictionary may hold a name twice or names that no row uses.
    text = column.cast(pa.string())
    _refuse_null(text, shown, row, "video")
    return text.dictionary_encode()


def _frames(column: pa.Array, shown: str, row: int) -> np.ndarray:
    _refuse_null(column, shown, row, "frame")
    frames = column.to_numpy(zero_copy_only=False)
    bad = (frames < 0) | (frames > np.iinfo(np.int32).max)
    if bad.any():
        at = int(np.argmax(bad))
        raise InputError(
            f"{shown} row {row + at + 1}: frame is {frames[at]}; it must be between 0 and 2^31 - 1"
        )
    return np.asarray(frames.astype(np.int32))


@dataclass(frozen=True, eq=False)
class Keys:
    """Video and frame number of each of the R rows of some feature files.

    Attributes:
        names: Names of the videos in name order.
        video: Video of each row, as an index into ``names``, int32, shape (R,).
        frame: Frame number of each row, int32, shape (R,).
    """

    names: tuple[str, ...]
    video: np.ndarray
    frame: np.ndarray

    @property
    def packed(self) -> np.ndarray:
        """Sort key of each row, which orders rows by video name, then by frame; int64, (R,)."""
        return pack(self.video, self.frame)


def read_keys(files: Sequence[FeatureFile]) -> Keys:
    """Read the video and frame number of every row of some feature files, without the features.

    Args:
        files: Feature files; their rows are concatenated in this order.

    Raises:
        InputError: If a value is null or a frame number is not in [0, 2^31 - 1].
    """
    code_of: dict[str, int] = {}
    videos, frames = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for file in files:
        row = 0
        with parquet_file(file.filesystem, file.path, file.shown) as reader:
            for batch in reader.iter_batches(batch_size=KEY_BATCH_ROWS, columns=["video", "frame"]):
                video = _videos(batch.column("video"), file.shown, row)
                names = video.dictionary.to_pylist()
                codes = np.array([code_of.setdefault(n, len(code_of)) for n in names], np.int32)
                videos.append(codes[video.indices.to_numpy()])
                frames.append(_frames(batch.column("frame"), file.shown, row))
                row += batch.num_rows
    names = sorted(code_of)
    rank = np.empty(len(names), np.int32)
    rank[[code_of[n] for n in names]] = np.arange(len(names), dtype=np.int32)
    return Keys(tuple(names), rank[np.concatenate(videos)], np.concatenate(frames))


def row_location(files: Sequence[FeatureFile], row: int) -> str:
    """Return the text ``FILE row N`` that names a row in error messages.

    Args:
        files: Feature files.
        row: Index of the row, counted from 0 over all files together.
    """
    for file in files:
        if row < file.rows:
            return f"{file.shown} row {row + 1}"
        row -= file.rows
    raise IndexError(row)
