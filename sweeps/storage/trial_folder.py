"""Folder of one trial: names of its files, and functions that read and write them.

Each file is either complete or absent. A file is written before the study records its content, so
the trial can be resumed from its folder even if the process is killed at any moment.
"""

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from mtl.dataset import Listing
from mtl.predictions.table import Predictions
from mtl.whole_files import write_atomically, write_json
from sweeps.records.messages import End, Epoch

TRIALS = "trials"
"""Name of the folder in a run folder that holds the trial folders."""

SCORES = "scores.json"
"""Name of the file of scores in a trial folder, a run folder and the run folder's ``refit/``."""

PREDICTIONS = "predictions.parquet"
"""Name of the file of predictions in a trial folder, and in a run's ``fusion/`` and ``refit/``."""

FOLD_MARK = ".fold"
"""Text that the signature of a trial contains if it is trained with one fold held out."""


class TrialFolder:
    """Folder of one trial: ``runs/<name>/trials/<signature>``, or output folder of ``train.py``.

    Args:
        path: Path of the folder, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.signature = path.name
        self.config_file = path / "config.yaml"
        self.scores_file = path / SCORES
        self.predictions_file = path / PREDICTIONS
        self.weights_folder = path / "weights"
        self._checkpoint_file = path / "checkpoint.safetensors"
        self._progress_file = path / "progress.csv"
        self._error_file = path / "error.txt"

    @classmethod
    def in_run(cls, run_folder: Path, signature: str) -> "TrialFolder":
        """Return the folder of one trial of a sweep; the folder need not exist.

        Args:
            run_folder: The sweep's run folder.
            signature: The trial's signature (hash of config and dataset).
        """
        return cls(run_folder / TRIALS / signature)

    @classmethod
    def all_in_run(cls, run_folder: Path) -> Iterator["TrialFolder"]:
        """Yield the folder of each trial in a run folder that has predictions, in any order."""
        for file in (run_folder / TRIALS).glob(f"*/{PREDICTIONS}"):
            yield cls(file.parent)

    @property
    def has_predictions(self) -> bool:
        """True if the folder holds the trial's predictions."""
        return self.predictions_file.exists()

    @property
    def has_ended(self) -> bool:
        """True if the trial has ended: its predictions are written, its checkpoint is removed."""
        return self.has_predictions and not self._checkpoint_file.exists()

    @property
    def has_failed(self) -> bool:
        """True if the trial's last attempt failed, so that the folder holds ``error.txt``."""
        return self._error_file.exists()

    @property
    def has_best_weights(self) -> bool:
        """True if the folder holds the weights of each task's best epoch."""
        if not self.scores_file.is_file():
            return False
        epochs = self.scores()["epochs"].values()
        return all(self.weights_file(epoch).is_file() for epoch in epochs)

    def predictions(self) -> Predictions:
        """Return the trial's predictions, read from ``predictions.parquet``."""
        return Predictions.load(self.predictions_file)

    def scores(self) -> dict[str, Any]:
        """Return the content of the trial's ``scores.json``."""
        scores: dict[str, Any] = json.loads(self.scores_file.read_text())
        return scores

    def config(self) -> dict[str, Any]:
        """Return the content of the trial's ``config.yaml``, its full config."""
        config: dict[str, Any] = yaml.safe_load(self.config_file.read_text())
        return config

    def identity(self) -> str | None:
        """Return the first line of ``config.yaml``, which identifies the trial.

        Returns:
            The line, a YAML comment; None if the folder has no ``config.yaml``.
        """
        if not self.config_file.is_file():
            return None
        return self.config_file.read_text().partition("\n")[0]

    def trained_epochs(self) -> int:
        """Return the number of epochs that the trial has trained, read from ``progress.csv``."""
        return len(self._progress_file.read_text().splitlines()) - 1

    def weights_file(self, epoch: int) -> Path:
        """Return the path of the weights of an epoch; the file exists only for kept weights."""
        return self.weights_folder / f"epoch_{epoch:03d}.safetensors"

    def begin(self, config: str) -> None:
        """Make the folder, write ``config.yaml``, and remove the error of an earlier attempt.

        Args:
            config: Content of ``config.yaml``: the trial's config, below comments that identify the
                trial and give the command to train it alone.
        """
        self.weights_folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_file, config.encode())
        self._error_file.unlink(missing_ok=True)

    def load_checkpoint(self) -> tuple[bytes | None, dict[int, bytes]]:
        """Return the checkpoint and the kept weights of an interrupted trial, to resume it.

        Without a checkpoint the trial must start at epoch 1, so ``progress.csv`` is removed.

        Returns:
            The checkpoint's bytes, and the bytes of the kept weights (safetensors) by epoch; None
            and an empty dict if there is no checkpoint.
        """
        if not self._checkpoint_file.exists():
            self._progress_file.unlink(missing_ok=True)
            return None, {}
        weights = {epoch: file.read_bytes() for epoch, file in self._weights_files().items()}
        return self._checkpoint_file.read_bytes(), weights

    def write_epoch(self, event: Epoch) -> None:
        """Write the results of one epoch: weights, checkpoint, ``progress.csv``, ``scores.json``.

        Weights are written before the checkpoint that needs them. Weights of epochs that are no
        longer the best of any task are removed last.

        Args:
            event: Result of the epoch, with weights and checkpoint; either is None if it
                is not to be written after this epoch.
        """
        result = event.result
        if event.weights is not None:
            write_atomically(self.weights_file(result["epoch"]), event.weights)
        if event.checkpoint is not None:
            write_atomically(self._checkpoint_file, event.checkpoint)
        self._write_progress(result)
        scores = {"select": {"score": result["objective"], **result["best_scores"]}}
        scores["epochs"] = result["best_epochs"]
        write_json(self.scores_file, scores)
        best = set(result["best_epochs"].values())
        for epoch, file in self._weights_files().items():
            # An epoch that is reported again must leave the weights of later epochs.
            if epoch not in best and epoch <= result["epoch"]:
                file.unlink()

    def write_end(self, event: End, listing: Listing) -> None:
        """Write an ended trial's predictions, and add the end's facts to ``scores.json``.

        The facts are the time of predicting and, if there are any, the collapsed tasks.

        Args:
            event: End of the trial, with the outputs for the predicted frames.
            listing: All frames named in the annotation files.
        """
        cost = {"frames": len(event.rows), "models": event.models, "seconds": event.seconds}
        note = {"collapsed": event.collapsed} if event.collapsed else {}
        write_json(self.scores_file, {**self.scores(), "prediction": cost, **note})
        video, frame = listing.video[event.rows], listing.frame[event.rows]
        predictions = Predictions(video, frame, listing.names, event.outputs)
        predictions.save(self.predictions_file)

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint, which is not needed after the trial's end is recorded."""
        self._checkpoint_file.unlink(missing_ok=True)

    def remove_weights(self) -> None:
        """Remove the trained weights of all epochs."""
        shutil.rmtree(self.weights_folder, ignore_errors=True)

    def mark_failed(self, reason: str) -> None:
        """Write the reason of a failure to ``error.txt``, unless this file exists already.

        The file exists if the failed process was able to write its own, more detailed error.
        """
        if not self.has_failed:
            self.write_error(reason)

    def write_error(self, text: str) -> None:
        """Write the error that ended the trial to ``error.txt``."""
        write_atomically(self._error_file, text.encode())

    def copy_to(self, run_folder: Path) -> None:
        """Copy this trial's folder, without its checkpoint, into the run folder of another sweep.

        Nothing is copied if that run folder holds the trial already. The copy appears complete or
        not at all.

        Args:
            run_folder: Run folder of the other sweep.
        """
        target = TrialFolder.in_run(run_folder, self.signature).path
        if target.exists():
            return
        draft = run_folder / "taken_over.unfinished"
        shutil.rmtree(draft, ignore_errors=True)
        without = shutil.ignore_patterns(self._checkpoint_file.name)
        shutil.copytree(self.path, draft, ignore=without)
        target.parent.mkdir(exist_ok=True)
        draft.rename(target)

    def weights_bytes(self) -> int:
        """Return the total size of the trained weights of all epochs in bytes."""
        return sum(file.stat().st_size for file in self._weights_files().values())

    def size_bytes(self) -> int:
        """Return the total size of the folder's files in bytes; the trial may be in training."""
        total = 0
        for file in self.path.rglob("*"):
            with suppress(FileNotFoundError):
                total += file.stat().st_size if file.is_file() else 0
        return total

    def _weights_files(self) -> dict[int, Path]:
        """Return the path of each kept file of weights, by epoch."""
        files = self.weights_folder.glob("epoch_*.safetensors")
        return {int(file.stem.removeprefix("epoch_")): file for file in files}

    def _write_progress(self, result: Mapping[str, Any]) -> None:
        """Write an epoch's row to ``progress.csv``, in place of old rows from this epoch on."""
        file = self._progress_file
        row = _flat(result)
        rows = list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []
        rows = [old for old in rows if int(old["epoch"]) < result["epoch"]]
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
        write_atomically(file, text.getvalue().encode())


def is_refit(signature: str) -> bool:
    """Return True if this signature (name of a trial's folder) is that of a fold's refit."""
    return FOLD_MARK in signature


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Join nested keys by a slash: return ``{"a/b": 1}`` for ``{"a": {"b": 1}}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{inner}": item for inner, item in value.items()}
        else:
            flat[key] = value
    return flat
