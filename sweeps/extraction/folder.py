"""The folder of one extraction: ``part-00000.parquet`` ..., ``extraction.json``,
``failed_images.csv``, and ``driver.lock``, held while it is written.

A part is there whole or not at all, and holds itself what failed in it: nothing else is needed to
go on after a kill.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from mtl.errors import InputError, brief
from mtl.features.extract import Failure, read_failed
from mtl.whole_files import write_atomically, write_json
from sweeps.storage.driver_lock import LOCK, DriverLock

MANIFEST = "extraction.json"
FAILED = "failed_images.csv"
OURS = re.compile(
    rf"({re.escape(MANIFEST)}|{re.escape(FAILED)}|part-\d+\.parquet)(\.unfinished)?"
    rf"|{re.escape(LOCK)}"
)
COMPARED = {
    "backbone": "another backbone",
    "size": "another size",
    "weights_sha256": "other weights",
    "images": "other images",
    "frames": "another number of frames",
    "frames_sha256": "other frames",
    "chunk": "another chunk",
    "device": "another device",
    "precision": "another precision",
}
"""What must be the same for an extraction to go on, as it is said. Batches may differ: an image's
features do not depend on the others but for rounding."""


def part_file(folder: Path, chunk: int) -> Path:
    """Where the part of a chunk lies."""
    return folder / f"part-{chunk:05d}.parquet"


def check_folder(
    folder: Path, manifest: Mapping[str, Any], overwrite: bool, retry_failed: bool
) -> list[int]:
    """Check that a folder is free, or this extraction's own.

    Args:
        folder: It.
        manifest: What the extraction is.
        overwrite: Begin it anew.
        retry_failed: Do a part with failures again.

    Returns:
        The chunks that are still to be done.

    Raises:
        InputError: It holds another extraction, or no extraction at all, or cannot be read.
    """
    with _said(f"read --out {folder}"):
        if folder.exists():
            _check_contents(folder, manifest, overwrite)
        return [
            chunk
            for chunk in range(manifest["parts"])
            if overwrite or not _is_done(part_file(folder, chunk), retry_failed)
        ]


def _check_contents(folder: Path, manifest: Mapping[str, Any], overwrite: bool) -> None:
    if not folder.is_dir():
        raise InputError(f"--out {folder} is a file: give a folder")
    names = sorted(file.name for file in folder.iterdir())
    foreign = next((name for name in names if not OURS.fullmatch(name)), None)
    if foreign and (overwrite or MANIFEST not in names):
        raise InputError(
            f"--out {folder} holds {foreign}, which no extraction writes: move that away, or give "
            "another folder"
        )
    if overwrite:
        return
    if MANIFEST in names:
        _check_same(folder, manifest)
    elif any(name.startswith("part-") for name in names):
        raise InputError(f"--out {folder} has no {MANIFEST}: give another, or --overwrite it")


def _check_same(folder: Path, manifest: Mapping[str, Any]) -> None:
    with _said(f"read {folder / MANIFEST}"):
        content = (folder / MANIFEST).read_bytes()
    try:
        known = json.loads(content)
        differ = next((key for key in COMPARED if known[key] != manifest[key]), None)
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{folder / MANIFEST} is damaged: --overwrite the folder, or give another"
        ) from None
    if differ:
        raise InputError(
            f"--out {folder} holds features of {COMPARED[differ]} ({_short(known[differ])}, this "
            f"is {_short(manifest[differ])}): give another folder, or --overwrite it"
        )


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text


def _is_done(part: Path, retry_failed: bool) -> bool:
    try:
        return not (read_failed(part) and retry_failed)
    except PermissionError:
        raise
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return False


@contextmanager
def begin_folder(folder: Path, manifest: Mapping[str, Any], overwrite: bool) -> Iterator[None]:
    """A folder that was checked, ready for its parts, and nobody else's to write until the end.

    Raises:
        InputError: It cannot be written, another program writes it, or has since it was checked.
    """
    with _said(f"write --out {folder}"):
        lock = DriverLock(folder)
    with closing(lock):
        _check_contents(folder, manifest, overwrite)
        with _said(f"write --out {folder}"):
            if overwrite:
                # The parts first: what they are is known as long as there are any.
                for file in sorted(folder.iterdir(), reverse=True):
                    if file.name != LOCK:
                        file.unlink()
            if not (folder / MANIFEST).exists():
                write_json(folder / MANIFEST, manifest)
        yield


def write_part(folder: Path, chunk: int, content: bytes) -> None:
    """Put a part in its place; InputError where the disk is full."""
    _write(part_file(folder, chunk), content)


def _write(file: Path, content: bytes) -> None:
    with _said(f"write {file}"):
        write_atomically(file, content)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """An ``OSError`` in one sentence: ``cannot write FILE (No space left on device): ...``."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot {what} ({error.strerror or brief(error)}): put that right, and the same "
            "command goes on"
        ) from None


def write_failed(folder: Path, chunks: int, absent: Sequence[str]) -> list[Failure]:
    """Write ``failed_images.csv`` (image, reason) of all parts and of listed frames without image.

    Returns:
        Its rows.
    """
    failed = [
        failure for chunk in range(chunks) for failure in read_failed(part_file(folder, chunk))
    ]
    failed += [(image, "listed, but there is no such image") for image in absent]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("image", "reason"), *failed])
    content = text.getvalue().encode()
    if not _holds(folder / FAILED, content):
        _write(folder / FAILED, content)
    return failed


def _holds(file: Path, content: bytes) -> bool:
    """A finished extraction may lie where nothing can be written."""
    try:
        return file.read_bytes() == content
    except OSError:
        return False
