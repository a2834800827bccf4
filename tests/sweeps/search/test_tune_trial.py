"""Tune's side of a trial: files are written before reports, and failures are reported."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayActorError, RayTaskError

from mtl.errors import TrainingError
from sweeps.records.messages import Begin, End, Epoch, Job, SlotLost, TrialFailed
from sweeps.search import tune_trial as module
from sweeps.search.tune_trial import BEGUN, FAILED, LOST, RUNNING, reports
from sweeps.storage.trial_folder import TrialFolder
from tests.support.small_data import make_listing

EPOCH = {
    "epoch": 1,
    "objective": 0.5,
    "best_scores": {"valence": 0.5},
    "best_epochs": {"valence": 1},
}
Report = tuple[dict[str, Any], set[str]]


class FakeSlot:
    """Slot with a fixed list of events; an exception in the list is raised in its turn."""

    def __init__(self, *events: Any) -> None:
        self.events = events
        self.train = self
        self.called_as = ""
        self.is_over = False
        self.job: Job | None = None

    def options(self, name: str, num_returns: str) -> "FakeSlot":
        assert num_returns == "streaming"
        self.called_as = name
        return self

    def remote(self, job: Job) -> "FakeSlot":
        self.job = job
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(self.events)

    def completed(self) -> "FakeSlot":
        return self


@pytest.fixture(autouse=True)
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace Ray: a fake slot yields the events themselves, and ``ray.wait`` ends its call."""

    def get(event: Any) -> Any:
        if isinstance(event, Exception):
            raise event
        return event

    def wait(calls: list[FakeSlot]) -> None:
        for call in calls:
            call.is_over = True

    monkeypatch.setattr(module.ray, "get", get)
    monkeypatch.setattr(module.ray, "wait", wait)


def settings(tmp_path: Path, slot: FakeSlot) -> dict[str, Any]:
    TrialFolder(tmp_path / "trial").begin("{}\n")
    job = {"name": "demo/0007 gru", "config": {}, "rungs": frozenset({2}), "reported": 0}
    return {"job": job, "slot": slot, "folder": str(tmp_path / "trial")}


def run(tmp_path: Path, slot: FakeSlot) -> list[Report]:
    """Return each report with the names of the files in the trial's folder at that time."""
    return [
        (metrics, {f.name for f in (tmp_path / "trial").rglob("*") if f.is_file()})
        for metrics in reports(settings(tmp_path, slot), make_listing())
    ]


def an_end(state: Any) -> End:
    return End(state, np.array([0, 1]), np.zeros((2, 22), np.float32))


def test_files_are_written_before_their_report(tmp_path):
    slot = FakeSlot(Epoch(EPOCH, b"checkpoint", b"weights"), an_end("pruned"))
    (first, files), (last, files_at_the_end) = run(tmp_path, slot)
    assert first["state"] == RUNNING
    assert module.json.loads(first["result"]) == EPOCH
    assert {
        "checkpoint.safetensors",
        "epoch_001.safetensors",
        "progress.csv",
        "scores.json",
    } <= files
    assert "predictions.parquet" not in files
    assert last == {"state": "pruned", "collapsed": [], "done": True}
    # The checkpoint stays until the study has recorded the end.
    assert {"predictions.parquet", "checkpoint.safetensors"} <= files_at_the_end
    assert slot.called_as == "demo/0007 gru"


def test_collapsed_tasks_are_reported_and_noted_with_the_scores(tmp_path):
    end = replace(an_end("complete"), collapsed=("expression",))
    *_, (last, _) = run(tmp_path, FakeSlot(Epoch(EPOCH, b"checkpoint", b"weights"), end))
    assert last == {"state": "complete", "collapsed": ["expression"], "done": True}
    assert TrialFolder(tmp_path / "trial").scores()["collapsed"] == ["expression"]


def test_the_end_is_reported_after_the_slots_call_is_over(tmp_path):
    slot = FakeSlot(Epoch(EPOCH, b"checkpoint", b"weights"), an_end("complete"))
    config = settings(tmp_path, slot)
    over = {report["state"]: slot.is_over for report in reports(config, make_listing())}
    assert over == {RUNNING: False, "complete": True}


def test_a_trial_continues_from_its_saved_checkpoint(tmp_path):
    slot = FakeSlot(an_end("complete"))
    config = settings(tmp_path, slot)
    TrialFolder(tmp_path / "trial").write_epoch(Epoch(EPOCH, b"checkpoint", b"weights"))
    list(reports(config, make_listing()))
    assert slot.job is not None
    assert (slot.job.checkpoint, slot.job.weights) == (b"checkpoint", {1: b"weights"})


def test_an_interrupted_trial_leaves_no_predictions(tmp_path):
    empty = End("interrupted", np.empty(0, int), np.empty((0, 22), np.float32))
    slot = FakeSlot(Epoch(EPOCH, b"checkpoint", b"weights"), empty)
    metrics, files = run(tmp_path, slot)[-1]
    assert metrics == {"state": "interrupted", "collapsed": [], "done": True}
    assert "checkpoint.safetensors" in files
    assert "predictions.parquet" not in files


def test_an_error_of_the_slot_is_the_trials_reason(tmp_path):
    cause = TrainingError("the loss of valence is not finite at epoch 1, step 3: lower optim.lr")
    error = RayTaskError("train", "a long trace\nof the slot", cause)
    ((metrics, files),) = run(tmp_path, FakeSlot(error))
    reason = f"TrainingError: {cause}"
    assert metrics == {"state": FAILED, "reason": reason, "done": True}
    assert "error.txt" in files
    assert "of the slot" in (tmp_path / "trial" / "error.txt").read_text()


def test_an_error_of_tunes_side_loses_the_slot_and_keeps_its_trace(tmp_path):
    ((metrics, _),) = run(tmp_path, FakeSlot(OSError("no space left\non the disk")))
    # The slot still trains the trial, so it is lost and not free.
    assert metrics == {"state": LOST, "reason": "OSError: no space left", "done": True}
    text = (tmp_path / "trial" / "error.txt").read_text()
    assert text.startswith("Traceback")
    assert "on the disk" in text


def test_a_slot_that_died_is_lost_and_the_trial_has_not_failed(tmp_path):
    slot = FakeSlot(Epoch(EPOCH, b"checkpoint", b"weights"), RayActorError())
    (first, _), (last, files) = run(tmp_path, slot)
    assert first["state"] == RUNNING
    assert last == {"state": LOST, "reason": "the slot's process died", "done": True}
    assert "checkpoint.safetensors" in files


def test_a_slot_without_workers_is_lost(tmp_path):
    error = RayTaskError("train", "a trace", SlotLost("its workers have gone"))
    ((metrics, _),) = run(tmp_path, FakeSlot(error))
    assert metrics == {"state": LOST, "reason": "SlotLost: its workers have gone", "done": True}


def test_an_error_of_a_worker_keeps_the_workers_reason_and_trace(tmp_path):
    """The slot only passes the error on, so its own trace is left out."""
    cause = TrialFailed("ValueError: bad row", "a trace\nof rank 1")
    ((metrics, _),) = run(tmp_path, FakeSlot(RayTaskError("train", "the slot's", cause)))
    assert metrics == {"state": FAILED, "reason": "ValueError: bad row", "done": True}
    assert (tmp_path / "trial" / "error.txt").read_text() == "a trace\nof rank 1"


def test_workers_that_begin_a_trial_report_their_placement_group(tmp_path):
    epoch = Epoch(EPOCH, b"checkpoint", b"weights")
    slot = FakeSlot(Begin(2, "a1b2"), epoch, an_end("complete"))
    (first, files), _, (last, _) = run(tmp_path, slot)
    assert first == {"state": BEGUN, "restarts": 2, "placement_group": "a1b2"}
    assert "checkpoint.safetensors" not in files
    assert last == {"state": "complete", "collapsed": [], "done": True}


def test_tunes_side_imports_no_torch(tmp_path):
    """A slot's handle imports the class of the slot, which must not import torch either."""
    modules = "sweeps.search.tune_trial, sweeps.slots.process_slot, sweeps.slots.group_slot"
    code = f"import sys, {modules}; print({{'torch', 'optuna'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("set()\n", 0)
