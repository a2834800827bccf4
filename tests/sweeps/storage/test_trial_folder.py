"""Tests of the trial folder: after a kill at any point the trial can go on."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtl.predictions.table import Predictions
from sweeps.records.messages import End, Epoch
from sweeps.storage.trial_folder import TrialFolder
from tests.support.small_data import make_listing

TASKS = ("valence", "expression")


def event(epoch: int, best: dict[str, int], fresh: bool = True) -> Epoch:
    """Make the event of an epoch.

    Args:
        epoch: Number of the epoch.
        best: Best epoch so far of each task.
        fresh: True if the event carries weights and a checkpoint.
    """
    result: dict[str, Any] = {
        "epoch": epoch,
        "losses": dict.fromkeys(TASKS, 1 / epoch),
        "scores": dict.fromkeys(TASKS, 0.1 * epoch),
        "best_scores": {task: 0.1 * e for task, e in best.items()},
        "best_epochs": best,
        "objective": 0.25 * epoch,
    }
    weights = b"weights %d" % epoch if fresh and epoch in best.values() else None
    return Epoch(result, b"checkpoint %d" % epoch if fresh else None, weights)


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    made = TrialFolder(tmp_path / "trial")
    made.begin("optim: {}\n")
    return made


def names(folder: TrialFolder) -> set[str]:
    return {str(f.relative_to(folder.path)) for f in folder.path.rglob("*") if f.is_file()}


def rows(folder: TrialFolder) -> list[dict[str, str]]:
    return list(csv.DictReader((folder.path / "progress.csv").read_text().splitlines()))


def test_after_each_epoch_the_checkpoint_and_the_best_weights_exist(folder):
    folder.write_epoch(event(1, {"valence": 1, "expression": 1}))
    folder.write_epoch(event(2, {"valence": 2, "expression": 1}))
    assert names(folder) == {
        "config.yaml",
        "checkpoint.safetensors",
        "progress.csv",
        "scores.json",
        "weights/epoch_001.safetensors",
        "weights/epoch_002.safetensors",
    }
    folder.write_epoch(event(3, {"valence": 2, "expression": 3}))
    assert sorted(f.name for f in folder.weights_folder.iterdir()) == [
        "epoch_002.safetensors",
        "epoch_003.safetensors",
    ]
    assert folder.load_checkpoint() == (b"checkpoint 3", {2: b"weights 2", 3: b"weights 3"})
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3"]
    assert rows(folder)[2]["best_epochs/expression"] == "3"
    assert json.loads((folder.path / "scores.json").read_text()) == {
        "select": {"score": 0.75, "valence": 0.2, "expression": pytest.approx(0.3)},
        "epochs": {"valence": 2, "expression": 3},
    }


def test_an_epoch_reported_again_replaces_its_row_only(folder):
    for epoch in (1, 2):
        folder.write_epoch(event(epoch, {"valence": epoch, "expression": 1}))
    before = folder.load_checkpoint()
    folder.write_epoch(event(2, {"valence": 2, "expression": 1}, fresh=False))
    assert folder.load_checkpoint() == before
    assert [row["epoch"] for row in rows(folder)] == ["1", "2"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("steps", range(5))
def test_a_kill_between_any_two_steps_leaves_a_checkpoint_with_its_weights(
    folder, steps, monkeypatch
):
    """Epoch 3 replaces the weights of epoch 1; the process dies after ``steps`` files."""
    folder.write_epoch(event(1, {"valence": 1, "expression": 1}))
    folder.write_epoch(event(2, {"valence": 2, "expression": 1}))
    best = {"valence": 2, "expression": 3}
    left = iter(range(steps))

    def dies_before(step: Callable[..., Any]) -> Callable[..., Any]:
        def unless_killed(*arguments: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return step(*arguments)

        return unless_killed

    with monkeypatch.context() as patched:
        for name in ("replace", "unlink"):
            patched.setattr(Path, name, dies_before(getattr(Path, name)))
        with pytest.raises(Killed):
            folder.write_epoch(event(3, best))

    checkpoint, weights = folder.load_checkpoint()
    done, needed = {b"checkpoint 2": (2, {1, 2}), b"checkpoint 3": (3, {2, 3})}[checkpoint]
    assert needed <= set(weights)
    assert all(weights[epoch] == b"weights %d" % epoch for epoch in needed)
    assert [row["epoch"] for row in rows(folder)][:2] == ["1", "2"]
    json.loads((folder.path / "scores.json").read_text())
    # The next process trains epoch 3, or reports it again.
    folder.write_epoch(event(3, best, fresh=done == 2))
    assert folder.load_checkpoint() == (b"checkpoint 3", {2: b"weights 2", 3: b"weights 3"})
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3"]


def test_an_early_epoch_reported_again_leaves_later_weights(folder):
    for epoch in (1, 2, 3):
        folder.write_epoch(event(epoch, {"valence": epoch, "expression": 2 if epoch > 1 else 1}))
    folder.write_epoch(event(2, {"valence": 2, "expression": 2}, fresh=False))
    folder.write_epoch(event(3, {"valence": 3, "expression": 2}, fresh=False))
    assert folder.load_checkpoint() == (b"checkpoint 3", {2: b"weights 2", 3: b"weights 3"})


def test_without_a_checkpoint_a_trial_starts_at_its_first_epoch(folder):
    folder.write_epoch(event(1, {"valence": 1, "expression": 1}))
    (folder.path / "checkpoint.safetensors").unlink()
    assert folder.load_checkpoint() == (None, {})
    assert not (folder.path / "progress.csv").exists()


def test_an_ended_trial_has_predictions_and_no_checkpoint(folder):
    listing = make_listing()
    folder.write_epoch(event(1, {"valence": 1, "expression": 1}))
    at = np.array([150, 3, 199])
    outputs = np.random.default_rng(0).random((3, 22), np.float32)
    assert not folder.has_ended
    folder.write_end(End("complete", at, outputs), listing)
    # Until the study has recorded the end, a new start must be able to repeat it.
    assert folder.load_checkpoint()[0] is not None
    assert not folder.has_ended
    folder.remove_checkpoint()
    assert folder.has_ended
    found = Predictions.load(folder.path / "predictions.parquet")
    assert [found.names[v] for v in found.video] == ["v7", "v0", "v9"]
    assert found.frame.tolist() == [11, 4, 20]
    np.testing.assert_array_equal(found.outputs, outputs)
    folder.remove_checkpoint()


def test_a_new_attempt_removes_the_error(folder):
    folder.write_error("ValueError: no")
    assert (folder.path / "error.txt").read_text() == "ValueError: no"
    folder.begin("optim: {lr: 1}\n")
    assert names(folder) == {"config.yaml"}
    assert (folder.path / "config.yaml").read_text() == "optim: {lr: 1}\n"
