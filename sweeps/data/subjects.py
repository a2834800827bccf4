"""Reading of each video's subject (person) from a CSV file; annotation files do not name them."""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mtl.dataset import Listing
from mtl.errors import InputError


def with_subjects(listing: Listing, path: str | None) -> Listing:
    """Return a listing of frames in which each video has the subject (person) from a CSV file.

    Args:
        listing: Frames and labels from the annotation files, with the names of the videos.
        path: CSV file with the columns ``video,subject``; with None ``listing`` is returned
            unchanged. A video that is not in the file counts as a subject of its own.

    Raises:
        InputError: If the file cannot be read, a row is broken, a video has two subjects, or none
            of the listed videos is in the file.
    """
    if path is None:
        return listing
    subject_of = dict(_subjects(Path(path)))
    if not subject_of.keys() & set(listing.names):
        raise InputError(
            f"{path} names none of the {len(listing.names)} listed videos, such as "
            f"{listing.names[0]!r}: use the annotation files' video names"
        )
    return replace(listing, subjects=tuple(subject_of.get(v, v) for v in listing.names))


def _subjects(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}): give a CSV of video,subject") from None
    subject_of: dict[str, str] = {}
    for line, row in enumerate(csv.reader(text.splitlines()), 1):
        if not row or (line == 1 and row == ["video", "subject"]):
            continue
        if len(row) != 2 or not all(row):
            raise InputError(f"{path} line {line}: {row} must be two fields, video and subject")
        video, subject = row
        if subject_of.setdefault(video, subject) != subject:
            raise InputError(
                f"{path} line {line}: video {video!r} has subject {subject!r} but "
                f"{subject_of[video]!r} before; keep one"
            )
        yield video, subject
