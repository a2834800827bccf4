"""Reader of feature files written by other programs: Parquet in any order, or HDF5."""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.fs as pafs

from mtl.dataset import parquet, storage
from mtl.dataset.feature_set import DTYPES, VideoFeatures
from mtl.dataset.parquet import FeatureFile, Keys
from mtl.errors import InputError, brief

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
"""First bytes of every HDF5 file."""
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")


def read_features(address: str | Path) -> Iterator[VideoFeatures]:
    """Read features that another program has written, video by video in name order.

    The source is one Parquet file or a folder of them, with the columns ``video, frame, feature``,
    or an HDF5 file with the datasets ``<video>/feature``, shape (frames, features), and optionally
    ``<video>/frame``, shape (frames,); without the latter the rows are the frames 1, 2, 3 ...
    Sorted Parquet files are read one video at a time, others are sorted in memory. Parquet footers
    are checked at once, everything else during the iteration.

    Args:
        address: Local path or ``s3://`` address of the source; HDF5 must be local.

    Returns:
        Iterator over the videos: name, n frame numbers in ascending order, (n,), and F features of
        each frame, (n, F), in float16, float32 or uint8; float64 is converted to float32.

    Raises:
        InputError: If the source cannot be read or breaks a rule of the format, also during the
            iteration; the message names the file and the row or video.
    """
    if _is_hdf5(address):
        return _hdf5_videos(Path(address))
    files = _feature_files(address)
    return _parquet_videos(files)


def _is_hdf5(address: str | Path) -> bool:
    path = Path(address)
    if "://" in str(address) or not path.is_file():
        return False
    if path.suffix in HDF5_SUFFIXES:
        return True
    with path.open("rb") as stream:
        return stream.read(len(HDF5_MAGIC)) == HDF5_MAGIC


def _feature_files(address: str | Path) -> list[FeatureFile]:
    filesystem, path = storage.resolve(address)
    shown = str(address)
    source = storage.info(filesystem, path, shown)
    if source.is_file:
        return [parquet.open_feature_file(filesystem, path, shown)]
    if source.type == pafs.FileType.NotFound:
        raise InputError(f"{shown} does not exist: check the path of these features")
    paths = storage.files_under(filesystem, path)
    if not paths:
        raise InputError(f"{shown} holds no Parquet files: give a folder of .parquet files")
    files = [
        parquet.open_feature_file(filesystem, p, f"{shown.rstrip('/')}/{PurePosixPath(p).name}")
        for p in paths
    ]
    _check_agreement([file for file in files if file.rows])
    return files


def _check_agreement(files: Sequence[FeatureFile]) -> None:
    for file in files[1:]:
        first = files[0]
        if (file.width, file.dtype) != (first.width, first.dtype):
            raise InputError(
                f"{file.shown} holds {file.width} features of {file.dtype} per row but "
                f"{first.shown} {first.width} of {first.dtype}: parts of one set must agree"
            )


def _parquet_videos(files: Sequence[FeatureFile]) -> Iterator[VideoFeatures]:
    keys = parquet.read_keys(files)
    packed = keys.packed
    if (np.diff(packed) > 0).all():
        yield from _stream_videos(files)
        return
    order = np.argsort(packed, kind="stable")
    duplicates = np.flatnonzero(np.diff(packed[order]) == 0)
    if len(duplicates):
        first, second = (int(order[i]) for i in (duplicates[0], duplicates[0] + 1))
        raise InputError(
            f"{parquet.row_location(files, second)}: frame {keys.frame[second]} of video "
            f"{keys.names[keys.video[second]]!r} is already in "
            f"{parquet.row_location(files, first)}; keep one of the rows"
        )
    yield from _sort_videos(files, keys, order)


def _stream_videos(files: Sequence[FeatureFile]) -> Iterator[VideoFeatures]:
    """Yield the features of each video from files sorted by video and frame, one video in memory.

    A video may continue from one file into the next.
    """
    for video, pieces in groupby(_video_pieces(files), key=itemgetter(0)):
        _, frames, values = zip(*pieces, strict=True)
        yield video, np.concatenate(frames), np.concatenate(values)


def _video_pieces(files: Sequence[FeatureFile]) -> Iterator[VideoFeatures]:
    for file in files:
        for batch in parquet.batches(file):
            codes, names = batch.video.indices.to_numpy(), batch.video.dictionary.to_pylist()
            cuts = [0, *(np.flatnonzero(np.diff(codes)) + 1), len(codes)]
            for a, b in pairwise(cuts):
                yield names[codes[a]], batch.frame[a:b], batch.values[a:b]


def _sort_videos(
    files: Sequence[FeatureFile], keys: Keys, order: np.ndarray
) -> Iterator[VideoFeatures]:
    """Yield the features of each video from files in any order, with all features in memory.

    Args:
        files: Feature files.
        keys: Video and frame number of each row of all files.
        order: Indices that sort these rows by video name, then by frame number.
    """
    first = next(file for file in files if file.rows)
    values = np.empty((len(order), first.width), first.dtype)
    start = 0
    for file in files:
        for batch in parquet.batches(file):
            row = start + batch.row
            values[row : row + len(batch.values)] = batch.values
        start += file.rows
    cuts = np.searchsorted(keys.video[order], np.arange(len(keys.names) + 1))
    for name, (a, b) in zip(keys.names, pairwise(cuts), strict=True):
        yield name, keys.frame[order[a:b]], values[order[a:b]]


def _hdf5_videos(path: Path) -> Iterator[VideoFeatures]:
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"{path} is HDF5 and h5py is not installed: pip install 'mtl-sweeps[hdf5]'"
        ) from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read as HDF5 ({brief(error)}): copy or make it again"
        ) from None
    return _read_hdf5(file, path)


def _read_hdf5(file: Any, path: Path) -> Iterator[VideoFeatures]:
    with file:
        names: list[str] = []
        file.visit(lambda key: names.append(key[: -len("/feature")]) if _is_feature(key) else None)
        if not names:
            raise InputError(
                f"{path} holds no '<video>/feature': give an HDF5 file with such datasets"
            )
        for video in sorted(names):
            yield _hdf5_video(file[video], video, path)


def _is_feature(key: str) -> bool:
    return key.endswith("/feature")


def _hdf5_video(group: Any, video: str, path: Path) -> VideoFeatures:
    where = f"{path} {video}/feature"
    values = _hdf5_array(group, "feature", f"{path} {video}")
    if values.ndim != 2:
        raise InputError(f"{where} has shape {values.shape}: it must be (frames, features)")
    if values.dtype == np.float64:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, rejected below
            values = values.astype(np.float32)
    if values.dtype.name not in DTYPES:
        raise InputError(f"{where} holds {values.dtype}: it must be float16, float32 or uint8")
    bad = parquet.first_non_finite(values)
    if bad is not None:
        raise InputError(
            f"{where} row {bad[0] + 1}: feature {bad[1] + 1} is {values[bad]}; every feature must "
            "be finite, extract this frame again or leave it out"
        )
    frames = _hdf5_frames(group, len(values), f"{path} {video}")
    order = np.argsort(frames, kind="stable")
    return video, frames[order], values[order]


def _hdf5_frames(group: Any, rows: int, where: str) -> np.ndarray:
    if "frame" not in group:
        return np.arange(1, rows + 1, dtype=np.int32)
    frames = _hdf5_array(group, "frame", where).reshape(-1)
    if len(frames) != rows:
        raise InputError(f"{where}/frame has {len(frames)} rows but {where}/feature has {rows}")
    if frames.dtype.kind not in "iuf":
        raise InputError(f"{where}/frame holds {frames.dtype}: it must be int32")
    wrong = (frames != np.floor(frames)) | (frames < 0) | (frames > np.iinfo(np.int32).max)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{where}/frame row {row + 1} is {frames[row]}: it must be a frame number")
    values, counts = np.unique(frames, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{where}/frame holds frame {int(values[counts > 1][0])} twice: keep one of the rows"
        )
    return np.asarray(frames.astype(np.int32))


def _hdf5_array(group: Any, name: str, where: str) -> np.ndarray:
    try:
        return np.asarray(group[name][()])
    except (OSError, TypeError, AttributeError) as error:
        raise InputError(f"{where}/{name} cannot be read ({brief(error)})") from None
