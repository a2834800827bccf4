"""Writer of a dataset directory: labels, features, counts and content hash.

A directory appears complete, or not at all if writing fails.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mtl.dataset import storage
from mtl.dataset.feature_set import FeatureSetWriter, VideoFeatures
from mtl.dataset.listing import Listing, check_listing, count, tables
from mtl.dataset.reading import FORMAT, Dataset, open_dataset
from mtl.errors import InputError

SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Pattern that the name of a feature set must match."""


def write_dataset(
    out: str | Path,
    listing: Listing,
    features: Mapping[str, Iterable[VideoFeatures]],
    *,
    image_name: str = "{frame:05d}.jpg",
    sources: dict[str, Any],
    extra: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Write a dataset directory; it appears complete, or not at all if writing fails.

    Args:
        out: Local folder to write, which does not exist or is empty.
        listing: Frames named in the annotation files, with their labels.
        features: Videos of each feature set in name order, each with its name, its frame numbers
            in ascending order (n,) and its features (n, F) in float16, float32 or uint8. Videos
            that are not in the listing are left out and counted.
        image_name: Format string of an image name in the challenge's files.
        sources: Files or addresses that the data came from, recorded in ``dataset.json``.
        extra: Further JSON values, recorded in ``dataset.json`` under ``extra``.
        overwrite: Replace the dataset that ``out`` already holds.

    Returns:
        The opened dataset.

    Raises:
        InputError: If the listing or a feature set breaks a rule, or ``out`` cannot be written;
            the message names the set, video and frame.
    """
    check_listing(listing)
    if not features:
        raise InputError("a dataset needs at least one feature set: name one")
    for name in features:
        if not SET_NAME.fullmatch(name):
            raise InputError(
                f"feature set {name!r}: a name starts with a letter or digit and holds only those "
                "and _ . -"
            )
    folder = storage.local_path(out)
    with _replacing(folder, overwrite) as draft:
        for name, table in zip(("labels", "videos"), tables(listing), strict=True):
            pq.write_table(table, draft / f"{name}.parquet", compression="zstd")
        written = {
            name: FeatureSetWriter(draft, name, listing).write(videos)
            for name, videos in features.items()
        }
        info = {
            "format": FORMAT,
            "hash": _hash(listing, image_name, {n: s.digest for n, s in written.items()}),
            "image_name": image_name,
            "sources": sources,
            "extra": extra or {},
            "counts": count(listing),
            "listed_without_features": {n: s.missing_frames for n, s in written.items()},
            "unlisted_feature_rows": {n: s.unlisted_rows for n, s in written.items()},
            "files": _sizes(draft),
            "features": {n: s.entry() for n, s in written.items()},
        }
        (draft / "dataset.json").write_text(_json(info))
    return open_dataset(folder)


@contextmanager
def _replacing(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``folder`` at the end, or is deleted on an error.

    Args:
        folder: Folder to write.
        overwrite: Replace the dataset that ``folder`` already holds.
    """
    _refuse_occupied(folder, overwrite)
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        draft.mkdir(parents=True)
        yield draft
        if folder.exists() and overwrite:
            folder.rename(old)
        draft.rename(folder)
    except OSError as error:
        raise InputError(f"cannot write {folder} ({error}): choose another folder") from None
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _refuse_occupied(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / "dataset.json").is_file():
        raise InputError(f"{folder} exists and is no dataset: choose another folder")
    if not overwrite:
        raise InputError(
            f"{folder} already holds a dataset: choose another folder, or --overwrite it"
        )


def _hash(listing: Listing, image_name: str, digests: dict[str, str]) -> str:
    """Return the hexadecimal SHA-256 of a dataset's content.

    The hash does not depend on the division of the features into part files.

    Args:
        listing: Frames named in the annotation files, with their labels.
        image_name: Format string of an image name.
        digests: SHA-256 of each feature set, by its name.
    """
    videos = [listing.names, listing.splits, listing.subjects]
    sha = hashlib.sha256(json.dumps([image_name, videos, digests], sort_keys=True).encode())
    values = np.where(listing.mask, listing.values, 0)
    for array, dtype in (
        (listing.video, "<i4"),
        (listing.frame, "<i4"),
        (values, "<f4"),
        (listing.mask, "|b1"),
    ):
        sha.update(np.ascontiguousarray(array, dtype).tobytes())
    return sha.hexdigest()


def _sizes(draft: Path) -> list[dict[str, Any]]:
    paths = sorted(path for path in draft.rglob("*") if path.is_file())
    return [{"file": str(p.relative_to(draft)), "bytes": p.stat().st_size} for p in paths]


def _json(info: dict[str, Any]) -> str:
    """Return indented JSON text with each list of numbers on one line."""
    text = json.dumps(info, indent=1)
    return re.sub(r"\[\n([-+0-9.eE,\s]*)\]", lambda m: f"[{' '.join(m[1].split())}]", text) + "\n"
