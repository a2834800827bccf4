"""Folder of one trial: the names of its files, their writing and their reading.

Each file is either complete or absent. A file is written before its content is reported to the
driver, so a process that is killed at any moment leaves a folder from which the trial can go on.
"""

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping
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
"""Name of the file of scores, in a trial folder and in other folders of a run."""

PREDICTIONS = "predictions.parquet"
"""Name of the file of predictions, in a trial folder and in other folders of a run."""

FOLD_MARK = ".fold"
"""Part of the signature of a trial that is trained with one fold held out."""


class TrialFolder:
    """Folder of one trial: ``runs/<name>/trials/<signature>``, or the output of ``train.py``.

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
        """Return the folder of one trial of a sweep; it need not exist."""
        return cls(run_folder / TRIALS / signature)

    @classmethod
    def all_in_run(cls, run_folder: Path) -> Iterator["TrialFolder"]:
        """Yield the folders of all trials of a sweep that have predictions, in any order."""
        for file in (run_folder / TRIALS).glob(f"*/{PREDICTIONS}"):
            yield cls(file.parent)

    @property
    def has_predictions(self) -> bool:
        """True if the trial's predictions are written."""
        return self.predictions_file.exists()

    @property
    def has_ended(self) -> bool:
        """True if the trial has predictions and its end is recorded in the journal."""
        return self.has_predictions and not self._checkpoint_file.exists()

    @property
    def has_failed(self) -> bool:
        """True if the trial's last attempt has failed."""
        return self._error_file.exists()

    @property
    def has_best_weights(self) -> bool:
        """True if the weights of each task's best epoch are kept."""
        if not self.scores_file.is_file():
            return False
        epochs = self.scores()["epochs"].values()
        return all(self.weights_file(epoch).is_file() for epoch in epochs)

    def predictions(self) -> Predictions:
        """Return the trial's predictions."""
        return Predictions.load(self.predictions_file)

    def scores(self) -> dict[str, Any]:
        """Return the content of ``scores.json``."""
        scores: dict[str, Any] = json.loads(self.scores_file.read_text())
        return scores

    def config(self) -> dict[str, Any]:
        """Return the content of ``config.yaml``."""
        config: dict[str, Any] = yaml.safe_load(self.config_file.read_text())
        return config

    def identity(self) -> str | None:
        """Return the first line of ``config.yaml``, or None if there is no such file."""
        if not self.config_file.is_file():
            return None
        return self.config_file.read_text().partition("\n")[0]

    def trained_epochs(self) -> int:
        """Return the number of epochs in ``progress.csv``."""
        return len(self._progress_file.read_text().splitlines()) - 1

    def weights_file(self, epoch: int) -> Path:
        """Return the path of the weights of an epoch; the file exists if they are kept."""
        return self.weights_folder / f"epoch_{epoch:03d}.safetensors"

    def begin(self, config: str) -> None:
        """Make the folder and remove an earlier attempt's error.

        Args:
            config: Content of ``config.yaml``: the command and the config that train this trial
                alone.
        """
        self.weights_folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_file, config.encode())
        self._error_file.unlink(missing_ok=True)

    def load_checkpoint(self) -> tuple[bytes | None, dict[int, bytes]]:
        """Return the checkpoint and the kept weights by epoch, as an earlier process left them.

        Without a checkpoint the trial starts at its first epoch, so ``progress.csv`` is removed and
        ``(None, {})`` is returned.
        """
        if not self._checkpoint_file.exists():
            self._progress_file.unlink(missing_ok=True)
            return None, {}
        weights = {epoch: file.read_bytes() for epoch, file in self._weights_files().items()}
        return self._checkpoint_file.read_bytes(), weights

    def write_epoch(self, event: Epoch) -> None:
        """Write the files of one epoch.

        The new weights are written before the checkpoint that refers to them, and the weights that
        they replace are removed last.
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
        """Write the predictions of an ended trial and add the cost of predicting to its scores.

        Args:
            event: End of the trial, with the outputs of the predicted frames.
            listing: Listed frames of the dataset.
        """
        cost = {"frames": len(event.rows), "models": event.models, "seconds": event.seconds}
        write_json(self.scores_file, {**self.scores(), "prediction": cost})
        video, frame = listing.video[event.rows], listing.frame[event.rows]
        predictions = Predictions(video, frame, listing.names, event.outputs)
        predictions.save(self.predictions_file)

    def remove_checkpoint(self) -> None:
        """Remove the checkpoint, which is not needed once the trial's end is recorded."""
        self._checkpoint_file.unlink(missing_ok=True)

    def remove_weights(self) -> None:
        """Remove the weights of all epochs."""
        shutil.rmtree(self.weights_folder, ignore_errors=True)

    def mark_failed(self, reason: str) -> None:
        """Write the reason of a failure, unless the failed process wrote its error itself."""
        if not self.has_failed:
            self.write_error(reason)

    def write_error(self, text: str) -> None:
        """Write the error that ended the trial."""
        write_atomically(self._error_file, text.encode())

    def copy_to(self, run_folder: Path) -> None:
        """Copy the folder without its checkpoint to another sweep, unless that sweep has it.

        The copy appears complete or not at all.
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

    def size_bytes(self) -> int:
        """Return the size of all files of the folder."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def _weights_files(self) -> dict[int, Path]:
        """Return the files of the kept weights by epoch."""
        files = self.weights_folder.glob("epoch_*.safetensors")
        return {int(file.stem.removeprefix("epoch_")): file for file in files}

    def _write_progress(self, result: Mapping[str, Any]) -> None:
        """Append an epoch's row to ``progress.csv``, in place of the rows from that epoch on."""
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
    """Return True if the signature is that of a trial trained with a fold held out."""
    return FOLD_MARK in signature


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping whose nested keys are joined by a slash: ``{"a": {"b": 1}}`` -> ``a/b``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{inner}": item for inner, item in value.items()}
        else:
            flat[key] = value
    return flat
