"""Reader of the annotation files and the test list of the ABAW multi-task challenge.

A row of an annotation file is ``video/00001.jpg,valence,arousal,expression,au x 12``; a row of the
test list is the image name alone. The header line is optional. A missing valence or arousal is -5,
any other missing label is -1.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv

from mtl.dataset import Listing
from mtl.errors import InputError
from mtl.tasks import EXPRESSIONS, LABEL_COLUMNS, MISSING

FILE_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("training_set_annotations.txt", "training_set_annotations_22.txt"),
    "validation": ("validation_set_annotations.txt", "validation_set_annotations_22.txt"),
    "test": (
        "test_set_release.txt",
        "test_set_release_22.txt",
        "MTL_Challenge_test_set_release.txt",
        "MTL_Challenge_test_set_release_22.txt",
    ),
}
"""Accepted names of the challenge's file for each split (training, validation and test videos)."""
MAX_FRAME = 2**31 - 1
"""Largest frame number that fits in int32."""
VALUE_RULES = {
    "valence": "between -1 and 1",
    "arousal": "between -1 and 1",
    "expression": f"an integer from 0 to {len(EXPRESSIONS) - 1}",
}
"""Description of the allowed labels by the label column's name, for error messages.

The columns that are not in this mapping (action units) allow 0 and 1.
"""
MAX_SHOWN_CHARACTERS = 60
"""Largest number of characters of a malformed row that an error message quotes."""
IMAGE_PATTERN = re.compile(
    r"(?P<video>.+)/(?P<prefix>(?:[^/]*\D)?)(?P<frame>\d+)(?P<suffix>\.[A-Za-z]+)"
)


@dataclass(frozen=True, eq=False)
class Annotations:
    """Labels or predictions of N frames, read from one file in the challenge's format.

    Attributes:
        images: Image names in file order, such as ``video/00001.jpg``.
        values: Labels in the columns ``LABEL_COLUMNS`` (valence, arousal, expression and 12 action
            units), float32, shape (N, 15); 0 where missing.
        mask: True where the file gives a label, bool, shape (N, 15).
    """

    images: tuple[str, ...]
    values: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Challenge:
    """Content of a directory with the annotation files and test list of the ABAW challenge.

    Attributes:
        listing: All frames that the files name, with their labels: training, then validation, then
            test frames, each in file order.
        image_name: Format string of an image name, such as ``{frame:05d}.jpg``.
        files: Path of the file that was read for each split; ``test`` is absent without a test
            list.
    """

    listing: Listing
    image_name: str
    files: dict[str, Path]


class _ListedFrame(NamedTuple):
    """One frame in an annotation file or test list: image name, path of the file, line number."""

    image: str
    path: Path
    line: int

    @property
    def location(self) -> str:
        return f"{self.path} line {self.line}"


def read_annotations(directory: str | Path) -> Challenge:
    """Read the training and validation annotations, and the test list if there is one.

    Args:
        directory: Folder with the challenge's files, named as in ``FILE_NAMES``.

    Returns:
        The frames of all files with their labels, and the paths of the files.

    Raises:
        InputError: If an annotation file is missing or empty, or a row is malformed, a frame is
            listed twice, a video is in two splits, an image name has no frame number, or image
            names follow different patterns; the message names the file and line.
    """
    files = _find_files(Path(directory))
    rows: list[_ListedFrame] = []
    splits: list[str] = []
    tables: list[np.ndarray] = []
    for split, path in files.items():
        split_rows, values = _read(path, labelled=split != "test")
        rows += split_rows
        splits += [split] * len(split_rows)
        tables.append(values)
    for split in ("train", "validation"):
        if split not in splits:
            raise InputError(f"{files[split]} lists no frames: copy the {split} annotations again")
    _refuse_repeats(rows)
    names, image_name = _parse_image_names(rows)
    values = np.concatenate(tables)
    listing = _listing(rows, splits, names, values)
    return Challenge(listing, image_name, files)


def read_file(path: str | Path) -> Annotations:
    """Read one file of labels or predictions in the format of the challenge's annotation files.

    Args:
        path: The file; unlike in the challenge's files, integer labels may be written as floats.

    Raises:
        InputError: If the file lists no frames, a row is malformed or a frame is listed twice; the
            message names the line.
    """
    rows, values = _read(Path(path), labelled=True)
    _refuse_repeats(rows)
    if not rows:
        raise InputError(f"{path} lists no frames: give a file in the challenge's format")
    mask = values != MISSING
    return Annotations(tuple(r.image for r in rows), np.where(mask, values, 0), mask)


def _find_files(directory: Path) -> dict[str, Path]:
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory: give the one with the annotation files")
    files = {}
    for split, names in FILE_NAMES.items():
        paths = [directory / name for name in names if (directory / name).is_file()]
        if len(paths) > 1:
            raise InputError(
                f"{directory} holds both {paths[0].name} and {paths[1].name}: keep one {split} file"
            )
        if paths:
            files[split] = paths[0]
    for split in ("train", "validation"):
        if split not in files:
            missing = "no annotation file" if not files else f"no {split} annotations"
            raise InputError(
                f"{directory} holds {missing}: it needs {FILE_NAMES[split][0]} "
                f"(or {FILE_NAMES[split][1]})"
            )
    return files


def _read(path: Path, labelled: bool) -> tuple[list[_ListedFrame], np.ndarray]:
    """Read the frames and labels of an annotation file or test list.

    Args:
        path: The file.
        labelled: False for a test list, which has no labels.

    Returns:
        The frames in file order, and their labels in the columns ``LABEL_COLUMNS``, shape
        (frames, 15). A missing label has the value that marks it in the file.
    """
    commas = len(LABEL_COLUMNS) if labelled else 0
    rows, label_texts = [], []
    for line, text in enumerate(_text(path).splitlines(), 1):
        image, _, rest = text.partition(",")
        if not text.strip() or (line == 1 and image.strip().lower() == "image"):
            continue
        row = _ListedFrame(image.strip(), path, line)
        if text.count(",") != commas or not row.image:
            raise InputError(
                f"{row.location} has {text.count(',') + 1} fields ({_short(text)}): a row has "
                + (f"{commas + 1}, the image and its labels" if labelled else "1, the image")
            )
        rows.append(row)
        label_texts.append(rest)
    values = np.full((len(rows), len(LABEL_COLUMNS)), MISSING)
    if labelled and rows:
        values = _parse_labels(rows, label_texts)
        _check_values(rows, values)
    return rows, values


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no text file (byte {error.start} is not UTF-8): give the challenge's file"
        ) from None


def _short(text: str) -> str:
    return repr(
        text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 3] + "..."
    )


def _parse_labels(rows: list[_ListedFrame], texts: list[str]) -> np.ndarray:
    """Parse the comma-separated labels of each row into float32 of shape (rows, 15).

    Arrow parses all rows at once. If Arrow fails, each row is parsed in Python instead, which is
    slower but names the malformed row and column in the error message.
    """
    # The buffer must be in Arrow's memory: an Arrow thread that frees a Python object while the
    # interpreter shuts down aborts the process (apache/arrow#34314).
    memory = pa.BufferOutputStream()
    memory.write("\n".join(texts).encode())
    try:
        table = csv.read_csv(
            pa.BufferReader(memory.getvalue()),
            read_options=csv.ReadOptions(column_names=LABEL_COLUMNS),
            parse_options=csv.ParseOptions(quote_char=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(LABEL_COLUMNS, pa.float32()), null_values=[]
            ),
        )
    except pa.ArrowInvalid:
        values = [_floats(row, text) for row, text in zip(rows, texts, strict=True)]
        return np.array(values, np.float32)
    return np.stack([column.to_numpy() for column in table.columns], 1)


def _floats(row: _ListedFrame, text: str) -> list[float]:
    pairs = zip(LABEL_COLUMNS, text.split(","), strict=True)
    return [_float(row, column, field) for column, field in pairs]


def _float(row: _ListedFrame, column: str, field: str) -> float:
    try:
        return float(field)
    except ValueError:
        raise InputError(f"{row.location}: {column} is {field!r}; it must be a number") from None


def _check_values(rows: list[_ListedFrame], values: np.ndarray) -> None:
    bad = values != MISSING
    bad[:, :2] &= ~(np.abs(values[:, :2]) <= 1)
    bad[:, 2] &= ~np.isin(values[:, 2], np.arange(len(EXPRESSIONS)))
    bad[:, 3:] &= ~np.isin(values[:, 3:], (0, 1))
    if bad.any():
        row, column = divmod(int(bad.argmax()), len(LABEL_COLUMNS))
        name = LABEL_COLUMNS[column]
        raise InputError(
            f"{rows[row].location}: {name} is {values[row, column]:g}; it must be "
            f"{VALUE_RULES.get(name, '0 or 1')}, or {MISSING[column]:g} where it is missing"
        )


def _refuse_repeats(rows: list[_ListedFrame]) -> None:
    seen: dict[str, _ListedFrame] = {}
    for row in rows:
        first = seen.setdefault(row.image, row)
        if first is not row:
            raise InputError(
                f"{row.location}: frame {row.image} is already in {first.location}; keep one of "
                "the rows"
            )


def _parse_image_names(rows: list[_ListedFrame]) -> tuple[list[tuple[str, int]], str]:
    """Return (video name, frame number) of each image, and the format string of image names.

    The format string, such as ``{frame:05d}.jpg``, is the same for all images.
    """
    matches = [IMAGE_PATTERN.fullmatch(row.image) for row in rows]
    for row, match in zip(rows, matches, strict=True):
        if match is None:
            raise InputError(
                f"{row.location}: {row.image!r} has no video or frame number; write it as "
                "video/00001.jpg"
            )
    images = [match for match in matches if match is not None]
    digits = min(len(match["frame"]) for match in images)
    prefix, suffix = images[0]["prefix"], images[0]["suffix"]
    for row, match in zip(rows, images, strict=True):
        expected = f"{prefix}{int(match['frame']):0{digits}d}{suffix}"
        if row.image != f"{match['video']}/{expected}":
            raise InputError(
                f"{row.location}: {row.image!r} does not follow the names of the other frames; by "
                f"their pattern it would end in {expected!r}"
            )
    names = [(match["video"], int(match["frame"])) for match in images]
    literal = [text.replace("{", "{{").replace("}", "}}") for text in (prefix, suffix)]
    return names, f"{literal[0]}{{frame:0{digits}d}}{literal[1]}"


def _listing(
    rows: list[_ListedFrame], splits: list[str], names: list[tuple[str, int]], values: np.ndarray
) -> Listing:
    first_row: dict[str, int] = {}
    for i, (video, frame) in enumerate(names):
        start = first_row.setdefault(video, i)
        if splits[start] != splits[i]:
            raise InputError(
                f"{rows[i].location}: video {video!r} is also in {rows[start].location}; a video "
                "belongs to one split, remove it from the other"
            )
        if frame > MAX_FRAME:
            raise InputError(f"{rows[i].location}: frame number {frame} is beyond 2^31 - 1")
    index = {video: i for i, video in enumerate(first_row)}
    mask = values != MISSING
    return Listing(
        names=tuple(first_row),
        splits=tuple(splits[start] for start in first_row.values()),
        subjects=tuple(first_row),
        video=np.array([index[video] for video, _ in names], np.int32),
        frame=np.array([frame for _, frame in names], np.int32),
        values=np.where(mask, values, 0).astype(np.float32),
        mask=mask,
    )
