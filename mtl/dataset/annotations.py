"""The challenge's files in, its submission file out.

Annotation files hold rows ``video/00001.jpg,valence,arousal,expression,au x 12``, the test list
only the image; a header line is optional. Missing are -5 (valence, arousal) and -1 (the others).
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

FILE_NAMES = {
    "train": ("training_set_annotations.txt", "training_set_annotations_22.txt"),
    "validation": ("validation_set_annotations.txt", "validation_set_annotations_22.txt"),
    "test": (
        "test_set_release.txt",
        "test_set_release_22.txt",
        "MTL_Challenge_test_set_release.txt",
        "MTL_Challenge_test_set_release_22.txt",
    ),
}
MAX_FRAME = 2**31 - 1
VALUE_RULES = {
    "valence": "between -1 and 1",
    "arousal": "between -1 and 1",
    "expression": f"an integer from 0 to {len(EXPRESSIONS) - 1}",
}
IMAGE_PATTERN = re.compile(
    r"(?P<video>.+)/(?P<before>(?:[^/]*\D)?)(?P<frame>\d+)(?P<after>\.[A-Za-z]+)"
)


@dataclass(frozen=True, eq=False)
class Annotations:
    """One official file with labels or predictions.

    Attributes:
        images: The names of the frames in file order, ``video/00001.jpg``.
        values: Labels in the columns ``LABEL_COLUMNS``, float32, shape (N, 15); 0 where missing.
        mask: Which are given, bool, shape (N, 15).
    """

    images: tuple[str, ...]
    values: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True, eq=False)
class Challenge:
    """The challenge's files of one directory.

    Attributes:
        listing: All frames: training, validation, then test in the list's order.
        image_name: How they name a frame, for ``str.format``: ``{frame:05d}.jpg``.
        files: The file that was read for each split; no ``test`` where there is no test list.
    """

    listing: Listing
    image_name: str
    files: dict[str, Path]


class _ListedFrame(NamedTuple):
    """A frame and where it is listed."""

    image: str
    path: Path
    line: int

    @property
    def place(self) -> str:
        return f"{self.path} line {self.line}"


def read_annotations(directory: str | Path) -> Challenge:
    """Read the training and validation annotations and, where there is one, the test list.

    Raises InputError, naming file and line, for a broken row, a frame or video listed twice, and
    names without frame numbers or of mixed patterns.
    """
    files = _find_files(Path(directory))
    rows: list[_ListedFrame] = []
    splits: list[str] = []
    tables: list[np.ndarray] = []
    for split, path in files.items():
        found, values = _read(path, labelled=split != "test")
        rows += found
        splits += [split] * len(found)
        tables.append(values)
    for split in ("train", "validation"):
        if split not in splits:
            raise InputError(f"{files[split]} lists no frames: copy the {split} annotations again")
    _refuse_repeats(rows)
    names, image_name = _split_images(rows)
    values = np.concatenate(tables)
    listing = _listing(rows, splits, names, values)
    return Challenge(listing, image_name, files)


def read_file(path: str | Path) -> Annotations:
    """Read one file of labels or predictions; numbers may be written as floats.

    Raises InputError naming the line of a broken row or of a frame listed twice.
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
        found = [directory / name for name in names if (directory / name).is_file()]
        if len(found) > 1:
            raise InputError(
                f"{directory} holds both {found[0].name} and {found[1].name}: keep one {split} file"
            )
        if found:
            files[split] = found[0]
    for split in ("train", "validation"):
        if split not in files:
            what = "no annotation file" if not files else f"no {split} annotations"
            raise InputError(
                f"{directory} holds {what}: it needs {FILE_NAMES[split][0]} (or {FILE_NAMES[split][1]})"
            )
    return files


def _read(path: Path, labelled: bool) -> tuple[list[_ListedFrame], np.ndarray]:
    """The rows of a file and their 15 numbers, (N, 15), as written."""
    commas = len(LABEL_COLUMNS) if labelled else 0
    rows, numbers = [], []
    for line, text in enumerate(_text(path).splitlines(), 1):
        image, _, rest = text.partition(",")
        if not text.strip() or (line == 1 and image.strip().lower() == "image"):
            continue
        row = _ListedFrame(image.strip(), path, line)
        if text.count(",") != commas or not row.image:
            raise InputError(
                f"{row.place} has {text.count(',') + 1} fields ({_short(text)}): a row has "
                + (f"{commas + 1}, the image and its labels" if labelled else "1, the image")
            )
        rows.append(row)
        numbers.append(rest)
    values = np.full((len(rows), len(LABEL_COLUMNS)), MISSING)
    if labelled and rows:
        values = _numbers(rows, numbers)
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
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _numbers(rows: list[_ListedFrame], texts: list[str]) -> np.ndarray:
    """The labels of each row, float32 (N, 15): Arrow reads them, Python finds what it cannot."""
    # Arrow's own memory: a reader's thread that lets go of Python's while the interpreter ends
    # aborts the process (apache/arrow#34314).
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
        raise InputError(f"{row.place}: {column} is {field!r}; it must be a number") from None


def _check_values(rows: list[_ListedFrame], values: np.ndarray) -> None:
    bad = values != MISSING
    bad[:, :2] &= ~(np.abs(values[:, :2]) <= 1)
    bad[:, 2] &= ~np.isin(values[:, 2], np.arange(len(EXPRESSIONS)))
    bad[:, 3:] &= ~np.isin(values[:, 3:], (0, 1))
    if bad.any():
        row, column = divmod(int(bad.argmax()), len(LABEL_COLUMNS))
        name = LABEL_COLUMNS[column]
        raise InputError(
            f"{rows[row].place}: {name} is {values[row, column]:g}; it must be "
            f"{VALUE_RULES.get(name, '0 or 1')}, or {MISSING[column]:g} where it is missing"
        )


def _refuse_repeats(rows: list[_ListedFrame]) -> None:
    seen: dict[str, _ListedFrame] = {}
    for row in rows:
        first = seen.setdefault(row.image, row)
        if first is not row:
            raise InputError(
                f"{row.place}: frame {row.image} is already in {first.place}; keep one of the rows"
            )


def _split_images(rows: list[_ListedFrame]) -> tuple[list[tuple[str, int]], str]:
    """Video and frame number of each image, and the pattern all of their names follow."""
    matches = [IMAGE_PATTERN.fullmatch(row.image) for row in rows]
    for row, match in zip(rows, matches, strict=True):
        if match is None:
            raise InputError(
                f"{row.place}: {row.image!r} has no video or frame number; write it as "
                "video/00001.jpg"
            )
    found = [match for match in matches if match is not None]
    digits = min(len(match["frame"]) for match in found)
    before, after = found[0]["before"], found[0]["after"]
    for row, match in zip(rows, found, strict=True):
        expected = f"{before}{int(match['frame']):0{digits}d}{after}"
        if row.image != f"{match['video']}/{expected}":
            raise InputError(
                f"{row.place}: {row.image!r} does not follow the names of the other frames; by "
                f"their pattern it would end in {expected!r}"
            )
    names = [(match["video"], int(match["frame"])) for match in found]
    literal = [text.replace("{", "{{").replace("}", "}}") for text in (before, after)]
    return names, f"{literal[0]}{{frame:0{digits}d}}{literal[1]}"


def _listing(
    rows: list[_ListedFrame], splits: list[str], names: list[tuple[str, int]], values: np.ndarray
) -> Listing:
    first: dict[str, int] = {}
    for i, (video, frame) in enumerate(names):
        start = first.setdefault(video, i)
        if splits[start] != splits[i]:
            raise InputError(
                f"{rows[i].place}: video {video!r} is also in {rows[start].place}; a video belongs "
                "to one split, remove it from the other"
            )
        if frame > MAX_FRAME:
            raise InputError(f"{rows[i].place}: frame number {frame} is beyond 2^31 - 1")
    index = {video: i for i, video in enumerate(first)}
    mask = values != MISSING
    return Listing(
        names=tuple(first),
        splits=tuple(splits[start] for start in first.values()),
        subjects=tuple(first),
        video=np.array([index[video] for video, _ in names], np.int32),
        frame=np.array([frame for _, frame in names], np.int32),
        values=np.where(mask, values, 0).astype(np.float32),
        mask=mask,
    )
