"""Labelled images: of the challenge's annotation files, or of a CSV.

Shapes: N images, 15 label columns as ``mtl.tasks`` lays them out.
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
COLUMNS = ("image", "split", *LABEL_COLUMNS)


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images that a backbone is trained on, and those that its epoch is chosen by.

    Attributes:
        images: They, N.
        values: Labels, 0 where unknown.
        mask: Which labels are known.
        select: Those that are not trained on, but chosen by; may be none.
    """

    images: Images
    values: Float32[np.ndarray, "N 15"]
    mask: Bool[np.ndarray, "N 15"]
    select: Bool[np.ndarray, " N"]

    @property
    def train(self) -> Int64[np.ndarray, " n"]:
        """The images that are trained on and have a label."""
        return np.flatnonzero(~self.select & self.mask.any(axis=1))

    @property
    def chosen_by(self) -> Int64[np.ndarray, " n"]:
        """The images that the epoch is chosen by and have a label."""
        return np.flatnonzero(self.select & self.mask.any(axis=1))

    def listing(self) -> Listing:
        """The trained images' labels as those of one video: what ``training_prior`` needs."""
        rows = self.train
        video, frame = np.zeros(len(rows), np.int32), np.arange(len(rows), dtype=np.int32)
        labels = self.values[rows], self.mask[rows]
        return Listing(("all",), ("train",), ("all",), video, frame, *labels)


def of_challenge(images: Images, challenge: Challenge, parts: Mapping[str, str]) -> LabelledImages:
    """The listed frames of ``train`` and ``select`` videos that there are images of.

    Args:
        images: Found in the folder of the crops.
        challenge: The annotation files.
        parts: ``train``, ``select``, ``confirm`` or ``test`` of each video: others than the first
            two are left out.

    Raises:
        InputError: Images that are no frames (``frames_of``), or none of a training video.
    """
    frames, listing = frames_of(images, challenge), challenge.listing
    index = {name: i for i, name in enumerate(frames.names)}
    here = np.array([index.get(name, -1) for name in listing.names], np.int32)[listing.video]
    rows = np.flatnonzero(here >= 0)
    listed = pack(here[rows], listing.frame[rows])
    order = np.argsort(listed)
    packed = pack(frames.video, frames.frame)
    row_of = rows[order[np.searchsorted(listed[order], packed)]]
    part = np.array([parts[name] for name in frames.names])[frames.video]
    kept = np.flatnonzero(np.isin(part, ("train", "select")))
    found = LabelledImages(
        frames.images.take(kept.astype(np.int32)),
        listing.values[row_of[kept]],
        listing.mask[row_of[kept]],
        part[kept] == "select",
    )
    return _checked(found, images.address)


def read_labels(path: str | Path, address: str | Path) -> LabelledImages:
    """A CSV of images with any of the four tasks' labels.

    Columns: ``image`` (its path below the folder of the images), any of ``LABEL_COLUMNS``, and
    ``split`` (``train`` or ``validation``: what the epoch is chosen by) where there is one. An
    empty field is a label that is not known.

    Args:
        path: The CSV.
        address: The folder of the images, local or ``s3://``.

    Raises:
        InputError: A column or a value that is none, named by its line; an image named twice.
    """
    reader = csv.DictReader(io.StringIO(_text(Path(path)), newline=""))
    _check_columns(path, reader.fieldnames)
    labelled = [name for name in LABEL_COLUMNS if name in (reader.fieldnames or ())]
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
        values.append([_label(path, line, name, _field(row, name)) for name in labelled])
    if not files:
        raise InputError(f"{path} lists no images: give one a line")
    table = np.full((len(files), len(LABEL_COLUMNS)), np.nan, np.float32)
    table[:, [LABEL_COLUMNS.index(name) for name in labelled]] = values
    known = ~np.isnan(table)
    found = LabelledImages(
        Images(str(address), pa.array(files, pa.string())),
        np.where(known, table, 0).astype(np.float32),
        known,
        np.array(select, bool),
    )
    return _checked(found, path)


def _text(path: Path) -> str:
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
    if not text:
        return np.nan
    rule = VALUE_RULES.get(name, "0 or 1")
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if name in ("valence", "arousal"):
        fits = -1 <= value <= 1
    else:
        fits = value in range(len(EXPRESSIONS) if name == "expression" else 2)
    if not fits:
        raise InputError(
            f"{path} line {line}: {name} is {text!r}; it must be {rule}, or empty where it is not "
            "known"
        )
    return value


def _checked(found: LabelledImages, where: str | Path) -> LabelledImages:
    if not len(found.train):
        raise InputError(f"{where} has no labelled image to train on: give some")
    return found
