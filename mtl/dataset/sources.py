"""Features as others wrote them, video by video: Parquet in any order, or the authors' HDF5."""

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
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")


def read_features(address: str | Path) -> Iterator[VideoFeatures]:
    """The videos of a feature source in name order: name, frames ascending (n,), values (n, F).

    The source is a Parquet file or a folder of them (``video, frame, feature``; sorted ones are
    streamed, others sorted in memory) or an HDF5 file with ``<video>/feature`` (T, F) and
    optionally ``<video>/frame`` (T,), without which the rows are the frames 1 to T. float64 comes
    as float32; uint8, float16 and float32 as they are. Footers are checked at once, the rest while
    reading. Raises InputError naming the file and the row or video.
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
    found = storage.info(filesystem, path, shown)
    if found.is_file:
        return [parquet.open_feature_file(filesystem, path, shown)]
    if found.type == pafs.FileType.NotFound:
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
        yield from _streamed(files)
        return
    order = np.argsort(packed, kind="stable")
    again = np.flatnonzero(np.diff(packed[order]) == 0)
    if len(again):
        first, second = (int(order[i]) for i in (again[0], again[0] + 1))
        raise InputError(
            f"{parquet.row_location(files, second)}: frame {keys.frame[second]} of video "
            f"{keys.names[keys.video[second]]!r} is already in {parquet.row_location(files, first)}; keep "
            "one of the rows"
        )
    yield from _sorted(files, keys, order)


def _streamed(files: Sequence[FeatureFile]) -> Iterator[VideoFeatures]:
    """Videos of sorted files: a video's pieces follow each other, also from part to part."""
    for video, pieces in groupby(_pieces(files), key=itemgetter(0)):
        _, frames, values = zip(*pieces, strict=True)
        yield video, np.concatenate(frames), np.concatenate(values)


def _pieces(files: Sequence[FeatureFile]) -> Iterator[VideoFeatures]:
    for file in files:
        for batch in parquet.batches(file):
            codes, names = batch.video.indices.to_numpy(), batch.video.dictionary.to_pylist()
            cuts = [0, *(np.flatnonzero(np.diff(codes)) + 1), len(codes)]
            for a, b in pairwise(cuts):
                yield names[codes[a]], batch.frame[a:b], batch.values[a:b]


def _sorted(files: Sequence[FeatureFile], keys: Keys, order: np.ndarray) -> Iterator[VideoFeatures]:
    """Videos of files in any order: one copy of all values is held."""
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
    return _hdf5_blocks(file, path)


def _hdf5_blocks(file: Any, path: Path) -> Iterator[VideoFeatures]:
    with file:
        names: list[str] = []
        file.visit(lambda key: names.append(key[: -len("/feature")]) if _is_feature(key) else None)
        if not names:
            raise InputError(f"{path} holds no '<video>/feature': give the authors' layout")
        for video in sorted(names):
            yield _hdf5_block(file[video], video, path)


def _is_feature(key: str) -> bool:
    return key.endswith("/feature")


def _hdf5_block(group: Any, video: str, path: Path) -> VideoFeatures:
    where = f"{path} {video}/feature"
    values = _hdf5_array(group, "feature", f"{path} {video}")
    if values.ndim != 2:
        raise InputError(f"{where} has shape {values.shape}: it must be (frames, features)")
    if values.dtype == np.float64:
        with np.errstate(over="ignore"):  # beyond float32 turns inf, refused below
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
    found = _hdf5_array(group, "frame", where).reshape(-1)
    if len(found) != rows:
        raise InputError(f"{where}/frame has {len(found)} rows but {where}/feature has {rows}")
    if found.dtype.kind not in "iuf":
        raise InputError(f"{where}/frame holds {found.dtype}: it must be int32")
    wrong = (found != np.floor(found)) | (found < 0) | (found > np.iinfo(np.int32).max)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(f"{where}/frame row {row + 1} is {found[row]}: it must be a frame number")
    values, counts = np.unique(found, return_counts=True)
    if (counts > 1).any():
        raise InputError(
            f"{where}/frame holds frame {int(values[counts > 1][0])} twice: keep one of the rows"
        )
    return np.asarray(found.astype(np.int32))


def _hdf5_array(group: Any, name: str, where: str) -> np.ndarray:
    try:
        return np.asarray(group[name][()])
    except (OSError, TypeError, AttributeError) as error:
        raise InputError(f"{where}/{name} cannot be read ({brief(error)})") from None
