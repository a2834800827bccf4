"""``model.json`` of an export: what the ensemble is, typed and strict."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mtl.errors import InputError
from mtl.predictions.postprocess import Kind
from mtl.strict import AboveZero, Positive, Strict, validate_as

FORMAT = 1
MODEL = "model.json"
STATISTICS = "statistics.safetensors"

MemberName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
ImageName = Annotated[
    str, Field(pattern=r"^([^{}/]|\{\{|\}\})*\{frame(:0\d{1,2}d)?\}([^{}/]|\{\{|\}\})*$")
]
Threshold = Annotated[float, Field(gt=0, lt=1)]


class SmoothingEntry(Strict):
    """``mtl.predictions.postprocess.Smoothing``."""

    kind: Kind
    width_frames: Annotated[int, Field(ge=0)]


class PostprocessingEntry(Strict):
    """``mtl.predictions.postprocess.Postprocessing``."""

    smoothing: dict[str, SmoothingEntry]
    bias: tuple[float, ...]
    thresholds: tuple[Threshold, ...]


class MemberEntry(Strict):
    """A trial: its config, how much it counts in each task that it serves, from which epoch."""

    config: dict[str, Any]
    weights: Annotated[dict[str, AboveZero], Field(min_length=1)]
    epochs: dict[str, Positive]


class Manifest(Strict):
    """``model.json``.

    Attributes:
        format: Of the folder.
        versions: Of what exported it.
        dataset: The content hash of the training data.
        features: The width of each feature set.
        image_name: How the training data's files name a frame.
        prior: What is predicted without features, by task; tasks without training label are absent.
        members: By name.
        postprocessing: What is done to their mean.
        scores: Of the fused model, by part, for reference.
        files: SHA-256 of the other files.
    """

    format: int
    versions: dict[str, str]
    dataset: str
    features: Annotated[dict[str, Positive], Field(min_length=1)]
    image_name: ImageName
    prior: dict[str, tuple[float, ...]]
    members: Annotated[dict[MemberName, MemberEntry], Field(min_length=1)]
    postprocessing: PostprocessingEntry
    scores: dict[str, Any]
    files: dict[str, str]

    def paths(self) -> set[str]:
        """Of all files but ``model.json``."""
        weights = {
            weights_path(name, epoch)
            for name, member in self.members.items()
            for epoch in member.epochs.values()
        }
        return {STATISTICS, *weights}


def read_manifest(content: bytes, where: str | Path) -> Manifest:
    """The ``model.json`` of an export; ``where`` that is, is for messages.

    Raises:
        InputError: If it is none, damaged or of another version.
    """
    file = Path(where) / MODEL
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(where, f"{MODEL}: {error}") from None
    if not isinstance(plain, dict) or "format" not in plain:
        raise InputError(f"{file} says nothing of an exported model: give a folder that is one")
    if plain["format"] != FORMAT:
        raise InputError(
            f"{file} has format {plain['format']!r}, this program reads {FORMAT}: export the model "
            "again, or use the version of the program that exported it"
        )
    try:
        manifest = validate_as(Manifest, plain)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    if manifest.files.keys() != manifest.paths():
        raise damaged(where, f"{MODEL}: files is not the list of its members' files")
    return manifest


def weights_path(member: str, epoch: int) -> str:
    """Where in the folder a member's weights are."""
    return f"members/{member}/epoch_{epoch:03d}.safetensors"


def damaged(where: str | Path, reason: str) -> InputError:
    """What to say of an export with a fault that no export has."""
    return InputError(f"the exported model {where} is damaged ({reason}): copy or export it again")
