"""``trials/<signature>``: the files that a trial leaves.

Files are whole or absent, and are there before anybody hears of what they hold.
"""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtl.dataset import Listing
from mtl.predictions.table import Predictions
from mtl.whole_files import write_json, write_whole
from sweeps.records.messages import End, Epoch


class TrialFolder:
    """``runs/<name>/trials/<signature>``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights = path / "weights"

    @property
    def ended(self) -> bool:
        """Whether the trial has come to its end."""
        predictions, checkpoint = (
            self.path / "predictions.parquet",
            self.path / "checkpoint.safetensors",
        )
        return predictions.exists() and not checkpoint.exists()

    def begin(self, config: str) -> None:
        """Make the folder; ``config`` is the YAML that trains this trial alone."""
        self.weights.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "config.yaml", config.encode())
        (self.path / "error.txt").unlink(missing_ok=True)

    def saved(self) -> tuple[bytes | None, dict[int, bytes]]:
        """Where an earlier process left off: its checkpoint and the weights of its best epochs."""
        file = self.path / "checkpoint.safetensors"
        if not file.exists():
            (self.path / "progress.csv").unlink(missing_ok=True)
            return None, {}
        return file.read_bytes(), {e: f.read_bytes() for e, f in self._kept().items()}

    def write_epoch(self, event: Epoch) -> None:
        """Weights first, then the checkpoint that counts on them, then what they replace goes."""
        result = event.result
        if event.weights is not None:
            write_whole(self.weights_file(result["epoch"]), event.weights)
        if event.checkpoint is not None:
            write_whole(self.path / "checkpoint.safetensors", event.checkpoint)
        self._write_progress(result)
        scores = {"select": {"score": result["objective"], **result["best_scores"]}}
        scores["epochs"] = result["best_epochs"]
        write_json(self.path / "scores.json", scores)
        best = set(result["best_epochs"].values())
        for epoch, file in self._kept().items():
            # An epoch that is told again must leave the weights of those after it.
            if epoch not in best and epoch <= result["epoch"]:
                file.unlink()

    def write_end(self, event: End, listing: Listing) -> None:
        """The predictions, and in ``scores.json`` what they cost."""
        file = self.path / "scores.json"
        cost = {"frames": len(event.rows), "models": event.models, "seconds": event.seconds}
        write_json(file, {**json.loads(file.read_text()), "prediction": cost})
        video, frame = listing.video[event.rows], listing.frame[event.rows]
        predictions = Predictions(video, frame, listing.names, event.outputs)
        predictions.save(self.path / "predictions.parquet")

    def settle(self) -> None:
        """The trial's end is on record: its checkpoint has done its work."""
        (self.path / "checkpoint.safetensors").unlink(missing_ok=True)

    def failed(self, reason: str) -> None:
        """The trial has failed, whether or not its own side could say so."""
        if not (self.path / "error.txt").exists():
            self.write_error(reason)

    def write_error(self, text: str) -> None:
        """Why the trial failed."""
        write_whole(self.path / "error.txt", text.encode())

    def _kept(self) -> dict[int, Path]:
        files = self.weights.glob("epoch_*.safetensors")
        return {int(file.stem.removeprefix("epoch_")): file for file in files}

    def weights_file(self, epoch: int) -> Path:
        """Where the weights of an epoch are, if they are kept."""
        return self.weights / f"epoch_{epoch:03d}.safetensors"

    def _write_progress(self, result: Mapping[str, Any]) -> None:
        file = self.path / "progress.csv"
        row = _flat(result)
        rows = list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []
        rows = [old for old in rows if int(old["epoch"]) < result["epoch"]]
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])
        write_whole(file, text.getvalue().encode())


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{inner}": item for inner, item in value.items()}
        else:
            flat[key] = value
    return flat


FOLD = ".fold"


def is_refit(signature: str) -> bool:
    """Whether a trial of this signature held a fold out."""
    return FOLD in signature
