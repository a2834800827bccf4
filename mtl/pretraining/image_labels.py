"""Labelled images for supervised pretraining, from annotation files or from a CSV file.

Shapes: N images, n images of one split, 15 label columns as in ``mtl.tasks``.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int64

from mtl.dataset.annotations import VALUE_RULES, Challenge
from mtl.dataset.listing import Listing, pack
from mtl.errors import InputError
from mtl.features.face_crops import Images, frames_of
from mtl.strict import did_you_mean
from mtl.tasks import EXPRESSIONS, LABEL_COLUMNS

SPLITS = ("train", "validation")
"""Values of the column ``split`` in a CSV file of labelled images."""
COLUMNS = ("image", "split", *LABEL_COLUMNS)
"""Columns that a CSV file of labelled images may have."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images that a backbone is trained on, and images by which its best epoch is selected.

    Attributes:
        images: The N images.
        values: Labels; 0 where missing.
        mask: True where a label is present.
        select: True for images by which the best epoch is selected, False for training images.
    """

    images: Images
    values: Float32[np.ndarray, "N 15"]
    mask: Bool[np.ndarray, "N 15"]
    select: Bool[np.ndarray, " N"]

    @property
    def train_rows(self) -> Int64[np.ndarray, " n"]:
        """Indices of the training images with at least one label."""
        return np.flatnonzero(~self.select & self.mask.any(axis=1))

    @property
    def select_rows(self) -> Int64[np.ndarray, " n"]:
        """Indices of the labelled images by which the best epoch is selected."""
        return np.flatnonzero(self.select & self.mask.any(axis=1))

    def listing(self) -> Listing:
        """Return the labels of the training images as frames of one video.

        ``mtl.sequences.join.training_prior`` computes mean labels from data of this form.
        """
        rows = self.train_rows
        video, frame = np.zeros(len(rows), np.int32), np.arange(len(rows), dtype=np.int32)
        labels = self.values[rows], self.mask[rows]
        return Listing(("all",), ("train",), ("all",), video, frame, *labels)


def from_annotations(
    images: Images, challenge: Challenge, parts: Mapping[str, str]
) -> LabelledImages:
    """Return the images of frames that the annotation files list, with the labels of these files.

    Args:
        images: Face crops of the challenge's videos.
        challenge: Annotation files.
        parts: Split of each video by name: ``train``, ``select`` (to select the epoch), ``confirm``
            or ``test``; images of the last two are left out.

    Raises:
        InputError: If the path of an image does not name a video and a frame, or no training image
            has a label.
    """
    frames, listing = frames_of(images, challenge), challenge.listing
    video_of = {name: i for i, name in enumerate(frames.names)}
    listed_video = np.array([video_of.get(name, -1) for name in listing.names], np.int32)
    video = listed_video[listing.video]
    rows = np.flatnonzero(video >= 0)
    listed = pack(video[rows], listing.frame[rows])
    order = np.argsort(listed)
    packed = pack(frames.video, frames.frame)
    row_of = rows[order[np.searchsorted(listed[order], packed)]]
    part = np.array([parts[name] for name in frames.names])[frames.video]
    kept = np.flatnonzero(np.isin(part, ("train", "select")))
    labelled = LabelledImages(
        frames.images.take(kept.astype(np.int32)),
        listing.values[row_of[kept]],
        listing.mask[row_of[kept]],
        part[kept] == "select",
    )
    _check_trainable(labelled, images.address)
    return labelled


def read_labels(path: str | Path, address: str | Path) -> LabelledImages:
    """Read a CSV file of images with labels of any tasks.

    Its columns are ``image`` (path below the folder of the images), at least one of
    ``LABEL_COLUMNS``, and optionally ``split``: ``train``, or ``validation`` for images by which
    the best epoch is selected. An empty field is a missing label.

    Args:
        path: CSV file.
        address: Folder of the images, local or ``s3://``.

    Raises:
        InputError: If the file cannot be read, a column or a value is invalid, an image is listed
            twice, or no training image has a label.
    """
    reader = csv.DictReader(io.StringIO(_read_text(Path(path)), newline=""))
    _check_columns(path, reader.fieldnames)
    label_columns = [name for name in LABEL_COLUMNS if name in (reader.fieldnames or ())]
    files: dict[str, int] = {}
    values, select = [], []
    for row in reader:
        line = reader.line_num
        image = _field(row, "image")
        if not image:
            raise InputError(f"{path} line {line}: image is empty: name one")
        if image in files:
            raise InputError(
                f"{path} line {line}: {image} is already in line {files[image]}; keep one"
            )
        files[image] = line
        split = _field(row, "split") or "train"
        if split not in SPLITS:
            raise InputError(f"{path} line {line}: split is {split!r}; it must be one of {SPLITS}")
        select.append(split == "validation")
        values.append([_label(path, line, name, _field(row, name)) for name in label_columns])
    if not files:
        raise InputError(f"{path} lists no images: give one a line")
    table = np.full((len(files), len(LABEL_COLUMNS)), np.nan, np.float32)
    table[:, [LABEL_COLUMNS.index(name) for name in label_columns]] = values
    mask = ~np.isnan(table)
    labelled = LabelledImages(
        Images(str(address), pa.array(files, pa.string())),
        np.where(mask, table, 0).astype(np.float32),
        mask,
        np.array(select, bool),
    )
    _check_trainable(labelled, path)
    return labelled


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error}): give a CSV of images") from None


def _check_columns(path: str | Path, columns: Sequence[str] | None) -> None:
    names = list(columns or ())
    for name in names:
        if name not in COLUMNS:
            raise InputError(f"{path}: column {name!r} is unknown{did_you_mean(name, COLUMNS)}")
        if names.count(name) > 1:
            raise InputError(f"{path}: column {name!r} is there twice: keep one")
    if "image" not in names or not set(names) & set(LABEL_COLUMNS):
        raise InputError(
            f"{path} has the columns {', '.join(names)}: it needs image and at least one of "
            f"{', '.join(LABEL_COLUMNS)}"
        )


def _field(row: Mapping[str, Any], name: str) -> str:
    return (row.get(name) or "").strip()


def _label(path: str | Path, line: int, name: str, text: str) -> float:
    """Return the label in a field of the CSV file; NaN for an empty field."""
    if not text:
        return np.nan
    rule = VALUE_RULES.get(name, "0 or 1")
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if name in ("valence", "arousal"):
        valid = -1 <= value <= 1
    else:
        valid = value in range(len(EXPRESSIONS) if name == "expression" else 2)
    if not valid:
        raise InputError(
            f"{path} line {line}: {name} is {text!r}; it must be {rule}, or empty where it is not "
            "known"
        )
    return value


def _check_trainable(labelled: LabelledImages, source: str | Path) -> None:
    if not len(labelled.train_rows):
        raise InputError(f"{source} has no labelled image to train on: give some")
