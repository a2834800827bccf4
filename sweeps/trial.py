"""One sampled config, trained in a slot: Tune's side of it, and the files that it leaves.

Tune's trial is a thin reused actor on the driver's node without torch: it makes one named streaming
call on a slot, writes each event to the trial's folder and reports it. Files are whole or absent,
and are there before the study hears of what they hold.
"""

import csv
import io
import json
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from mtl.dataset import Listing
from mtl.predictions import Predictions
from sweeps.job import End, Epoch, Job

RUNNING = "running"


class TrialFolder:
    """``runs/<name>/trials/<signature>``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights = path / "weights"

    def begin(self, config: str) -> None:
        """Make the folder; ``config`` is the YAML that trains this trial alone."""
        self.weights.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "config.yaml", config.encode())
        (self.path / "error.txt").unlink(missing_ok=True)

    def saved(self) -> tuple[bytes | None, dict[int, bytes]]:
        """Where an earlier process left off: its checkpoint and the weights of its best epochs."""
        file = self.path / "checkpoint.pt"
        if not file.exists():
            (self.path / "progress.csv").unlink(missing_ok=True)
            return None, {}
        kept = {int(f.stem.removeprefix("epoch_")): f for f in self.weights.glob("*.safetensors")}
        return file.read_bytes(), {epoch: f.read_bytes() for epoch, f in kept.items()}

    def write_epoch(self, event: Epoch) -> None:
        """Weights first, then the checkpoint that counts on them, then what they replace goes."""
        result = event.result
        if event.weights is not None:
            write_whole(self._weights(result["epoch"]), event.weights)
        if event.checkpoint is not None:
            write_whole(self.path / "checkpoint.pt", event.checkpoint)
        self._write_progress(result)
        scores = {"select": {"score": result["objective"], **result["best_scores"]}}
        scores["epochs"] = result["best_epochs"]
        write_json(self.path / "scores.json", scores)
        if event.checkpoint is not None:
            kept = {self._weights(epoch) for epoch in result["best_epochs"].values()}
            for file in set(self.weights.glob("*.safetensors")) - kept:
                file.unlink()

    def write_end(self, event: End, listing: Listing) -> None:
        """The predictions; a trial that has ended needs no checkpoint."""
        video, frame = listing.video[event.rows], listing.frame[event.rows]
        predictions = Predictions(video, frame, listing.names, event.outputs)
        predictions.save(self.path / "predictions.parquet")
        (self.path / "checkpoint.pt").unlink(missing_ok=True)

    def write_error(self, text: str) -> None:
        """Why the trial failed."""
        write_whole(self.path / "error.txt", text.encode())

    def _weights(self, epoch: int) -> Path:
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


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that a reader finds whole, old or new, whenever it looks."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """``content`` as indented JSON, whole."""
    write_whole(file, (json.dumps(content, indent=2) + "\n").encode())


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{inner}": item for inner, item in value.items()}
        else:
            flat[key] = value
    return flat


def run_trial(
    config: Mapping[str, Any], slots: Sequence[ActorHandle[Any]], listing: Listing
) -> None:
    """Tune's trainable: train ``config["job"]`` in slot ``config["slot"]``, write and report."""
    folder = TrialFolder(Path(config["folder"]))
    try:
        checkpoint, weights = folder.saved()
        job = Job(**config["job"], checkpoint=checkpoint, weights=weights)
        for event in _events(slots[config["slot"]], job):
            if isinstance(event, Epoch):
                folder.write_epoch(event)
                report(RUNNING, result=event.result)
                continue
            if event.state != "interrupted":
                folder.write_end(event, listing)
            report(event.state)
    except Exception as error:
        # One trial's failure is a result like another: the sweep goes on.
        folder.write_error(_trace(error))
        report("failed", reason=_reason(error))


def _events(slot: ActorHandle[Any], job: Job) -> Iterator[Epoch | End]:
    train: Any = slot.train
    for ref in train.options(name=job.name, num_returns="streaming").remote(job):
        yield ray.get(ref)


def report(state: str, **metrics: Any) -> None:
    """Hand one event to the driver; nested values travel as JSON, which Tune leaves alone."""
    plain = {k: json.dumps(v) if isinstance(v, Mapping) else v for k, v in metrics.items()}
    tune.report({"state": state, **plain})


def _reason(error: Exception) -> str:
    if isinstance(error, RayActorError):
        return "the slot's process died"
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"


def _trace(error: Exception) -> str:
    if isinstance(error, RayTaskError):
        return str(error)
    return "".join(traceback.format_exception(error))
