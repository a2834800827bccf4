"""The folder of one extraction: ``part-00000.parquet`` ..., ``extraction.json``,
``failed_images.csv``.

A part is there whole or not at all, and holds itself what failed in it: nothing else is needed to
go on after a kill.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mtl.errors import InputError
from mtl.features.extract import Failure, read_failed
from mtl.whole_files import write_json, write_whole

MANIFEST = "extraction.json"
FAILED = "failed_images.csv"
OURS = re.compile(rf"({MANIFEST}|{FAILED}|part-\d+\.parquet)(\.unfinished)?")
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


def check_folder(folder: Path, manifest: Mapping[str, Any], overwrite: bool) -> list[int]:
    """Check that a folder is free, or this extraction's own.

    Returns:
        The chunks that are still to be done.

    Raises:
        InputError: It holds another extraction, or no extraction at all.
    """
    chunks = range(manifest["parts"])
    if not folder.exists():
        return list(chunks)
    foreign = not folder.is_dir() or any(not OURS.fullmatch(f.name) for f in folder.iterdir())
    if foreign:
        raise InputError(
            f"--out {folder} is not empty and no extraction's folder: give another, or empty it"
        )
    if overwrite:
        return list(chunks)
    if (folder / MANIFEST).exists():
        _check_same(folder, manifest)
    elif any(folder.glob("part-*")):
        raise InputError(f"--out {folder} has no {MANIFEST}: give another, or --overwrite it")
    return [chunk for chunk in chunks if not _is_whole(part_file(folder, chunk))]


def _check_same(folder: Path, manifest: Mapping[str, Any]) -> None:
    try:
        known = json.loads((folder / MANIFEST).read_text())
        differ = next((key for key in COMPARED if known[key] != manifest[key]), None)
    except (OSError, ValueError, KeyError, TypeError):
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


def _is_whole(part: Path) -> bool:
    try:
        read_failed(part)
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return False
    return True


def begin_folder(folder: Path, manifest: Mapping[str, Any], overwrite: bool) -> None:
    """Make a folder that was checked ready for its parts; InputError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            # The parts first: what they are is known as long as there are any.
            for file in sorted(folder.iterdir(), reverse=True):
                file.unlink()
        if not (folder / MANIFEST).exists():
            write_json(folder / MANIFEST, manifest)
    except OSError as error:
        raise InputError(f"cannot write --out {folder} ({error.strerror}): check it") from None


def write_part(folder: Path, chunk: int, content: bytes) -> None:
    """Put a part in its place; InputError where the disk is full."""
    try:
        write_whole(part_file(folder, chunk), content)
    except OSError as error:
        raise InputError(
            f"cannot write {part_file(folder, chunk)} ({error.strerror}): make room, and the same "
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
    write_whole(folder / FAILED, text.getvalue().encode())
    return failed
