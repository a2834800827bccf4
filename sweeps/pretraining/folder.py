"""Output folder of a pretraining: checks before a start, and writing of its files.

Each file is written completely or not at all. The folder holds:

- ``pretraining.json``: manifest, everything that the trained weights depend on;
- ``config.yaml``: command and config;
- ``environment.json``: machine, packages and commit;
- ``progress.csv``: one row per epoch;
- ``checkpoint.safetensors``: state from which the same command continues;
- ``weights.safetensors``: kept weights of the backbone, for ``extract.py``;
- ``scores.json``: epoch, losses and scores of the kept weights;
- ``pictures/epoch_NNNN.png``: reconstructed faces of a masked autoencoder;
- ``failed_images.csv``: images that could not be read, with reasons.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import save

from mtl.errors import InputError, brief
from mtl.optimisation.checkpoint import unpack
from mtl.pretraining.pretrainer import PretrainResult
from mtl.whole_files import write_atomically, write_json
from sweeps.pretraining.events import PretrainingEpoch
from sweeps.pretraining.pictures import as_png
from sweeps.storage.driver_lock import LOCK, DriverLock

MANIFEST = "pretraining.json"
FAILED_IMAGES = "failed_images.csv"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
PICTURES = "pictures"
OVERWRITTEN = re.compile(
    rf"({FAILED_IMAGES}|{CHECKPOINT}|{WEIGHTS}|scores.json|progress.csv|environment.json|config.yaml|"
    r"epoch_\d+.png)(.unfinished)?"
)
"""Pattern of the names of files that ``--overwrite`` removes.

The manifest (``pretraining.json``) is not removed but replaced, so that the folder is always
recognised as the output of a pretraining.
"""
FREE_SPACE = "make room, and the same command goes on"
CHECK_PATH = "check it"


class PretrainingFolder:
    """Output folder of one pretraining: weights, checkpoint, scores, progress and pictures.

    Args:
        path: Path of the folder.
        manifest: Everything that the trained weights depend on: method, config, images, labels.

    Attributes:
        weights: Path of the file with the kept weights.
        results: Results of the finished epochs.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path, self._manifest = path, dict(manifest)
        self.weights = path / WEIGHTS
        self.results: list[PretrainResult] = []
        self._broken: dict[str, str] = {}

    def check(self, overwrite: bool) -> bytes | None:
        """Check that the folder is unused or holds this same pretraining; read its checkpoint.

        Args:
            overwrite: True if files of an earlier pretraining may be overwritten.

        Returns:
            Checkpoint of an earlier run of the same pretraining, to continue it; None if there is
            none, or the folder is to be overwritten.

        Raises:
            InputError: If the folder holds another pretraining or foreign files, or cannot be read.
        """
        try:
            return self._check(overwrite)
        except OSError as error:
            raise InputError(
                f"cannot read --out {self.path} ({error.strerror}): make it readable, or give "
                "another"
            ) from None

    def _check(self, overwrite: bool) -> bytes | None:
        if not self.path.exists():
            return None
        file = self.path / MANIFEST
        if not file.is_file():
            ignored = {LOCK, f"{MANIFEST}.unfinished"}
            if self.path.is_dir() and {entry.name for entry in self.path.iterdir()} <= ignored:
                return None
            raise InputError(
                f"--out {self.path} is not empty and no pretraining's folder: give another"
            )
        if overwrite:
            return None
        try:
            difference = next(_differences(json.loads(file.read_text()), self._manifest), None)
        except (ValueError, TypeError, AttributeError):
            raise InputError(
                f"{file} is damaged: --overwrite the folder, or give another"
            ) from None
        if difference:
            raise InputError(
                f"--out {self.path} holds another pretraining ({difference}): give another "
                "folder, or --overwrite it"
            )
        return self._read_checkpoint()

    def _read_checkpoint(self) -> bytes | None:
        file = self.path / CHECKPOINT
        if not file.exists():
            return None
        checkpoint = file.read_bytes()
        try:
            history = unpack(checkpoint)["history"]
            self.results = [PretrainResult(**result) for result in history]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{file} is damaged ({brief(error)}): remove it, and the pretraining begins anew"
            ) from None
        self._read_broken()
        return checkpoint

    def lock(self) -> DriverLock:
        """Lock the folder, so that no other process trains into it, and return the lock.

        Raises:
            InputError: If another process holds the lock, or the folder cannot be written.
        """
        with self._write_errors(CHECK_PATH):
            return DriverLock(self.path)

    def begin(self, config: str, environment: Mapping[str, Any], overwrite: bool) -> None:
        """Make the folder and write the files of a start: manifest, environment and config.

        Args:
            config: Command and config as YAML.
            environment: Machine, packages and commit.
            overwrite: True to remove the files of an earlier pretraining.

        Raises:
            InputError: If the folder cannot be written.
        """
        with self._write_errors(CHECK_PATH):
            self.path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                for file in [*self.path.iterdir(), *(self.path / PICTURES).glob("*")]:
                    if OVERWRITTEN.fullmatch(file.name):
                        file.unlink()
            write_json(self.path / MANIFEST, self._manifest)
            write_json(self.path / "environment.json", environment)
            write_atomically(self.path / "config.yaml", config.encode())

    @contextmanager
    def _write_errors(self, fix: str) -> Iterator[None]:
        """Context manager that turns an OSError into an InputError about the output folder.

        Args:
            fix: Advice to the user, which ends the message.
        """
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write --out {self.path} ({error.strerror}): {fix}") from None

    def write_epoch(self, event: PretrainingEpoch) -> None:
        """Write the results of an epoch: weights, scores, picture, progress and checkpoint.

        Weights are written before the checkpoint, because a resumed pretraining expects them.

        Args:
            event: Result of the epoch, with the weights, picture and checkpoint that are due.

        Raises:
            InputError: If the folder cannot be written.
        """
        epoch = event.result.epoch
        self.results = [*self.results[: epoch - 1], event.result]
        with self._write_errors(FREE_SPACE):
            if event.weights is not None:
                write_atomically(self.weights, save(dict(event.weights)))
                write_json(self.path / "scores.json", _scores_of(event.result))
            if event.picture is not None:
                (self.path / PICTURES).mkdir(exist_ok=True)
                picture = self.path / PICTURES / f"epoch_{epoch:04d}.png"
                write_atomically(picture, as_png(event.picture))
            write_atomically(
                self.path / "progress.csv", _as_csv([_progress_row(r) for r in self.results])
            )
            if event.checkpoint is not None:
                write_atomically(self.path / CHECKPOINT, event.checkpoint)

    def write_broken(self, images: tuple[str, ...]) -> None:
        """Add images that could not be read to ``failed_images.csv``.

        Args:
            images: For each image its path and the reason, as ``path: reason``.

        Raises:
            InputError: If the folder cannot be written.
        """
        parts = (image.rpartition(": ") for image in images)
        self._broken |= {file: reason for file, _, reason in parts}
        rows = [{"image": file, "reason": reason} for file, reason in sorted(self._broken.items())]
        with self._write_errors(FREE_SPACE):
            write_atomically(self.path / FAILED_IMAGES, _as_csv(rows))

    def _read_broken(self) -> None:
        file = self.path / FAILED_IMAGES
        if file.exists():
            with file.open(newline="") as stream:
                self._broken = {row["image"]: row["reason"] for row in csv.DictReader(stream)}

    @property
    def broken(self) -> int:
        """Number of different images that could not be read in any epoch so far."""
        return len(self._broken)


def _differences(
    stored: Mapping[str, Any], given: Mapping[str, Any], parent: str = ""
) -> Iterator[str]:
    """Compare two manifests; yield ``training.epochs = 20, this is 40`` for each different key.

    Args:
        stored: Manifest in the output folder.
        given: Manifest of the pretraining to start.
        parent: Keys of the enclosing mappings, each followed by a dot.
    """
    for key in dict.fromkeys([*stored, *given]):
        one, other = stored.get(key), given.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{parent}{key}.")
        elif one != other:
            yield f"{parent}{key} = {one}, this is {other}"


def _scores_of(result: PretrainResult) -> dict[str, Any]:
    return {"epoch": result.epoch, "losses": result.losses, "select": result.scores}


def _progress_row(result: PretrainResult) -> dict[str, Any]:
    row = asdict(result)
    losses, scores = row.pop("losses"), row.pop("scores") or {}
    row |= {f"loss_{name}": value for name, value in losses.items()}
    return row | {f"score_{name}": value for name, value in scores.items()}


def _as_csv(rows: list[dict[str, Any]]) -> bytes:
    text, columns = io.StringIO(), dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_yaml(command: str, plain: Mapping[str, Any]) -> str:
    """Return a config as YAML text; the first line is a comment with the program's command."""
    return f"# {command}\n{yaml.safe_dump(dict(plain), sort_keys=False)}"
