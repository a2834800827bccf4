"""Typed and strictly checked content of ``model.json``, the description of an export."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mtl.errors import InputError
from mtl.predictions.postprocess import Kind
from mtl.strict import AboveZero, Positive, Strict, validate_as

FORMAT = 1
"""Version of the format of exported ensembles that this program writes and reads."""
MODEL = "model.json"
STATISTICS = "statistics.safetensors"

MemberName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
ImageName = Annotated[
    str, Field(pattern=r"^([^{}/]|\{\{|\}\})*\{frame(:0\d{1,2}d)?\}([^{}/]|\{\{|\}\})*$")
]
Threshold = Annotated[float, Field(gt=0, lt=1)]


class SmoothingEntry(Strict):
    """Smoothing of one task's outputs over the frames of a video, as written in ``model.json``.

    Attributes:
        kind: ``box`` (equal weights) or ``gaussian``.
        width_frames: Largest distance of the averaged frames (box), or standard deviation
            (gaussian), in frames; 0 for no smoothing.
    """

    kind: Kind
    width_frames: Annotated[int, Field(ge=0)]


class PostprocessingEntry(Strict):
    """Post-processing of the ensemble's outputs, as written in ``model.json``.

    Attributes:
        smoothing: Smoothing over time of each task that is smoothed, by the task's name.
        bias: Number added to the log probability of each expression; empty for none.
        thresholds: Probability from which each action unit is active; empty for 0.5.
    """

    smoothing: dict[str, SmoothingEntry]
    bias: tuple[float, ...]
    thresholds: tuple[Threshold, ...]


class MemberEntry(Strict):
    """One member (trained model) of an ensemble, as written in ``model.json``.

    Attributes:
        config: Config of the trial that trained the member, as plain data.
        weights: Weight of the member's outputs in the ensemble's mean, by task; tasks that the
            ensemble does not take from this member are absent.
        epochs: Epoch after which the weights of the model are used, by task; the tasks are those
            of ``weights``.
    """

    config: dict[str, Any]
    weights: Annotated[dict[str, AboveZero], Field(min_length=1)]
    epochs: dict[str, Positive]


class Manifest(Strict):
    """Content of ``model.json``, the description of an exported ensemble.

    Attributes:
        format: Version of the export's format.
        versions: Versions of the packages that wrote the export, by package.
        dataset: Content hash of the dataset that the members were trained on.
        features: Number of features of each feature set, by its name.
        image_name: Pattern of image names in the annotation files, such as ``{frame:05d}.jpg``.
        prior: Outputs for frames of videos without features, by task; tasks without any training
            label are absent.
        members: Members of the ensemble by name.
        postprocessing: Post-processing of the members' mean outputs.
        scores: Scores of the ensemble on each split of the videos (select, confirm, ...), for
            information.
        files: SHA-256 of every other file of the export, by its path.
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
        """Return the paths of all files of the export except ``model.json``."""
        weights = {
            weights_path(name, epoch)
            for name, member in self.members.items()
            for epoch in member.epochs.values()
        }
        return {STATISTICS, *weights}


def read_manifest(content: bytes, where: str | Path) -> Manifest:
    """Check a ``model.json`` (description of an exported ensemble) and return its content.

    Args:
        content: Bytes of the file.
        where: Folder of the export, for messages.

    Raises:
        InputError: The file describes no export, is damaged or has another format version.
    """
    file = Path(where) / MODEL
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise damaged(where, f"{MODEL}: {error}") from None
    if not isinstance(plain, dict) or "format" not in plain:
        raise InputError(f"{file} describes no exported model: give the folder of an export")
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
    """Return the path of the weights of one of an ensemble's models after an epoch.

    The path is relative to the folder of the exported ensemble.

    Args:
        member: Name of the model in the ensemble.
        epoch: Number of the epoch, from 1.
    """
    return f"members/{member}/epoch_{epoch:03d}.safetensors"


def damaged(where: str | Path, reason: str) -> InputError:
    """Return the exception that reports a damaged exported ensemble.

    Args:
        where: Folder of the export.
        reason: Description of the damage.
    """
    return InputError(f"the exported model {where} is damaged ({reason}): copy or export it again")
