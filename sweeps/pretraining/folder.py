"""The folder of one pretraining, written by its driver: each file whole, or not there.

``pretraining.json`` (what it is), ``config.yaml``, ``progress.csv`` (a row an epoch),
``checkpoint.safetensors`` (where to go on), ``weights.safetensors`` (the backbone, for
``extract.py``), ``scores.json``, ``pictures/epoch_NNNN.png`` and ``failed_images.csv``.
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

import numpy as np
import yaml
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save

from mtl.errors import InputError, brief
from mtl.optimisation.checkpoint import unpack
from mtl.pretraining.pretrainer import PretrainResult
from mtl.whole_files import write_atomically, write_json
from sweeps.pretraining.events import PretrainingEpoch
from sweeps.storage.driver_lock import LOCK, DriverLock

MANIFEST = "pretraining.json"
FAILED = "failed_images.csv"
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
PICTURES = "pictures"
REMOVED = re.compile(
    rf"({FAILED}|{CHECKPOINT}|{WEIGHTS}|scores.json|progress.csv|environment.json|config.yaml|"
    r"epoch_\d+.png)(.unfinished)?"
)
"""What ``--overwrite`` removes: all but the manifest, so that whose folder it is stays known."""
NO_ROOM = "make room, and the same command goes on"


class PretrainingFolder:
    """``OUT``.

    Args:
        path: The folder.
        manifest: What decides the outcome: method, config, images, labels.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path, self._manifest = path, dict(manifest)
        self.weights = path / WEIGHTS
        self.results: list[PretrainResult] = []
        self._broken: dict[str, str] = {}

    def check(self, overwrite: bool) -> bytes | None:
        """Whether this pretraining may go on here, and from what.

        Returns:
            The checkpoint of an earlier run of the same pretraining.

        Raises:
            InputError: The folder holds another pretraining, or anything else.
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
            nothing = {LOCK, f"{MANIFEST}.unfinished"}
            if self.path.is_dir() and {found.name for found in self.path.iterdir()} <= nothing:
                return None
            raise InputError(
                f"--out {self.path} is not empty and no pretraining's folder: give another"
            )
        if overwrite:
            return None
        try:
            differ = next(_differences(json.loads(file.read_text()), self._manifest), None)
        except (ValueError, TypeError, AttributeError):
            raise InputError(
                f"{file} is damaged: --overwrite the folder, or give another"
            ) from None
        if differ:
            raise InputError(
                f"--out {self.path} holds another pretraining ({differ}): give another folder, or "
                "--overwrite it"
            )
        return self._saved()

    def _saved(self) -> bytes | None:
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
        """Keep other drivers out; InputError where one is at work, or nothing can be written."""
        with self._refused("check it"):
            return DriverLock(self.path)

    def begin(self, config: str, environment: Mapping[str, Any], overwrite: bool) -> None:
        """Make the folder, unless it is there to go on with.

        Args:
            config: YAML, for a reader.
            environment: Under which it runs.
            overwrite: Remove what an earlier pretraining wrote.
        """
        with self._refused("check it"):
            self.path.mkdir(parents=True, exist_ok=True)
            if overwrite:
                for file in [*self.path.iterdir(), *(self.path / PICTURES).glob("*")]:
                    if REMOVED.fullmatch(file.name):
                        file.unlink()
            write_json(self.path / MANIFEST, self._manifest)
            write_json(self.path / "environment.json", environment)
            write_atomically(self.path / "config.yaml", config.encode())

    @contextmanager
    def _refused(self, fix: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write --out {self.path} ({error.strerror}): {fix}") from None

    def write_epoch(self, event: PretrainingEpoch) -> None:
        """What an epoch leaves: weights first, then the checkpoint that counts on them."""
        epoch = event.result.epoch
        self.results = [*self.results[: epoch - 1], event.result]
        with self._refused(NO_ROOM):
            if event.weights is not None:
                write_atomically(self.weights, save(dict(event.weights)))
                write_json(self.path / "scores.json", _about(event.result))
            if event.picture is not None:
                (self.path / PICTURES).mkdir(exist_ok=True)
                write_atomically(self.path / PICTURES / f"epoch_{epoch:04d}.png", as_png(event.picture))
            write_atomically(self.path / "progress.csv", _table([_row(r) for r in self.results]))
            if event.checkpoint is not None:
                write_atomically(self.path / CHECKPOINT, event.checkpoint)

    def write_broken(self, images: tuple[str, ...]) -> None:
        """List images that could not be read."""
        self._broken |= {file: why for file, _, why in (one.rpartition(": ") for one in images)}
        rows = [{"image": file, "reason": why} for file, why in sorted(self._broken.items())]
        with self._refused(NO_ROOM):
            write_atomically(self.path / FAILED, _table(rows))

    def _read_broken(self) -> None:
        file = self.path / FAILED
        if file.exists():
            with file.open(newline="") as stream:
                self._broken = {row["image"]: row["reason"] for row in csv.DictReader(stream)}

    @property
    def broken(self) -> int:
        """Images that could not be read."""
        return len(self._broken)


def _differences(known: Mapping[str, Any], wanted: Mapping[str, Any], above: str = "") -> Any:
    """``training.epochs = 20, this is 40`` of each key that differs."""
    for key in dict.fromkeys([*known, *wanted]):
        one, other = known.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _differences(one, other, f"{above}{key}.")
        elif one != other:
            yield f"{above}{key} = {one}, this is {other}"


def _about(result: PretrainResult) -> dict[str, Any]:
    return {"epoch": result.epoch, "losses": result.losses, "select": result.scores}


def _row(result: PretrainResult) -> dict[str, Any]:
    row = asdict(result)
    losses, scores = row.pop("losses"), row.pop("scores") or {}
    row |= {f"loss_{name}": value for name, value in losses.items()}
    return row | {f"score_{name}": value for name, value in scores.items()}


def _table(rows: list[dict[str, Any]]) -> bytes:
    text, columns = io.StringIO(), dict.fromkeys(key for row in rows for key in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_png(faces: np.ndarray) -> bytes:
    """Faces (N, 3, S, S, 3), uint8, as one picture: three rows, a column for each face."""
    number, rows, side = faces.shape[:3]
    gap = max(1, side // 32)
    whole = np.full((rows * (side + gap) - gap, number * (side + gap) - gap, 3), 255, np.uint8)
    for column, face in enumerate(faces):
        for row, shown in enumerate(face):
            top, left = row * (side + gap), column * (side + gap)
            whole[top : top + side, left : left + side] = shown
    stream = io.BytesIO()
    Image.fromarray(whole).save(stream, "PNG")
    return stream.getvalue()


def as_yaml(command: str, plain: Mapping[str, Any]) -> str:
    """A config with the command that trains it."""
    return f"# {command}\n{yaml.safe_dump(dict(plain), sort_keys=False)}"
