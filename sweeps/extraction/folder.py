"""Output folder of a feature extraction.

The folder holds the features in ``part-00000.parquet`` ..., ``extraction.json``,
``failed_images.csv``, and ``driver.lock``, which is locked while a program writes to the folder. A
part file is complete or does not exist, and its metadata lists the images that could not be read.
Therefore an extraction can continue after its program was killed.
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
OWN_FILES = re.compile(
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
"""Keys of ``extraction.json`` that must not change when an extraction continues.

Each value is the error message's text for a changed key. The batch size may change, since it
changes the features by rounding only.
"""


def part_file(folder: Path, chunk: int) -> Path:
    """Return the path of the Parquet file with the features of one chunk of frames.

    Args:
        folder: Output folder of the extraction.
        chunk: Number of the chunk, from 0.
    """
    return folder / f"part-{chunk:05d}.parquet"


def check_folder(
    folder: Path, manifest: Mapping[str, Any], overwrite: bool, retry_failed: bool
) -> list[int]:
    """Check that a feature extraction may write to a folder, and find the chunks that are missing.

    The folder must be new, empty, or hold an earlier start of the same extraction. A chunk is the
    frames of one output file.

    Args:
        folder: Output folder.
        manifest: Content of ``extraction.json`` for this extraction.
        overwrite: True to accept any extraction in the folder and extract all chunks again.
        retry_failed: True to extract again the chunks in which images could not be read.

    Returns:
        Numbers of the chunks to extract.

    Raises:
        InputError: If the folder holds another extraction or other files, or cannot be read.
    """
    with _explained(f"read --out {folder}"):
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
    foreign = next((name for name in names if not OWN_FILES.fullmatch(name)), None)
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
    with _explained(f"read {folder / MANIFEST}"):
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
def locked_folder(folder: Path, manifest: Mapping[str, Any], overwrite: bool) -> Iterator[None]:
    """Lock the output folder of an extraction for a ``with`` block, and write ``extraction.json``.

    Args:
        folder: Output folder; ``check_folder`` has checked it.
        manifest: Content of ``extraction.json``.
        overwrite: True to delete the files of an earlier extraction.

    Raises:
        InputError: If the folder cannot be written, another program has locked it, or another
            extraction was started in the folder after the check.
    """
    with _explained(f"write --out {folder}"):
        lock = DriverLock(folder)
    with closing(lock):
        _check_contents(folder, manifest, overwrite)
        with _explained(f"write --out {folder}"):
            if overwrite:
                # In reverse order, so that extraction.json is deleted after all parts.
                for file in sorted(folder.iterdir(), reverse=True):
                    if file.name != LOCK:
                        file.unlink()
            if not (folder / MANIFEST).exists():
                write_json(folder / MANIFEST, manifest)
        yield


def write_part(folder: Path, chunk: int, content: bytes) -> None:
    """Write the Parquet file with the features of one chunk of frames.

    Args:
        folder: Output folder of the extraction.
        chunk: Number of the chunk, from 0.
        content: Bytes of the file.

    Raises:
        InputError: If the file cannot be written.
    """
    _write(part_file(folder, chunk), content)


def _write(file: Path, content: bytes) -> None:
    with _explained(f"write {file}"):
        write_atomically(file, content)


@contextmanager
def _explained(action: str) -> Iterator[None]:
    """Turn an ``OSError`` in a ``with`` block into an ``InputError``.

    Args:
        action: Verb and file for the message, such as ``write FILE``.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot {action} ({error.strerror or brief(error)}): put that right, and the same "
            "command goes on"
        ) from None


def write_failed(folder: Path, chunks: int, absent: Sequence[str]) -> list[Failure]:
    """Write ``failed_images.csv``, the list of images without features.

    A file with the same content is left as it is.

    Args:
        folder: Output folder of the extraction.
        chunks: Number of chunks (one file of features each); all these files must exist.
        absent: Images that the annotation files name and that do not exist.

    Returns:
        Path of each image without features, and the reason.

    Raises:
        InputError: If the file cannot be written.
    """
    failed = [
        failure for chunk in range(chunks) for failure in read_failed(part_file(folder, chunk))
    ]
    failed += [(image, "listed, but there is no such image") for image in absent]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("image", "reason"), *failed])
    content = text.getvalue().encode()
    # A finished extraction may be in a folder that cannot be written.
    if not _has_content(folder / FAILED, content):
        _write(folder / FAILED, content)
    return failed


def _has_content(file: Path, content: bytes) -> bool:
    try:
        return file.read_bytes() == content
    except OSError:
        return False
