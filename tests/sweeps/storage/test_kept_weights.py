"""The best trials of each task keep their weights, the others lose them as they are beaten."""

import json
from pathlib import Path

import pytest

from mtl.tasks import TASKS
from sweeps.storage.kept_weights import KeptWeights, folder_bytes


def trial(trials: Path, name: str, **scores: float | None) -> str:
    """An ended trial with a kilobyte of weights."""
    (trials / name / "weights").mkdir(parents=True)
    (trials / name / "weights" / "epoch_001.safetensors").write_bytes(bytes(1000))
    select = {"score": 1.0, **dict.fromkeys(TASKS), **scores}
    (trials / name / "scores.json").write_text(json.dumps({"select": select}))
    return name


def kept(trials: Path) -> set[str]:
    return {folder.name for folder in trials.iterdir() if (folder / "weights").is_dir()}


def test_the_25_best_are_kept_in_whatever_order_they_end(tmp_path):
    values = [((7 * n) % 40) / 40 for n in range(40)]
    kept_weights = KeptWeights(tmp_path, {}, 25)
    for number, value in enumerate(values):
        kept_weights.add(trial(tmp_path, f"t{number:02d}", valence=value))
    best = sorted(range(40), key=lambda n: -values[n])[:25]
    assert kept(tmp_path) == {f"t{number:02d}" for number in best}
    assert all((tmp_path / f"t{number:02d}" / "scores.json").exists() for number in range(40))


def test_one_that_is_among_the_best_of_any_task_is_kept(tmp_path):
    kept_weights = KeptWeights(tmp_path, {}, 1)
    kept_weights.add(trial(tmp_path, "valence", valence=0.9, arousal=0.1))
    kept_weights.add(trial(tmp_path, "arousal", valence=0.1, arousal=0.9))
    kept_weights.add(trial(tmp_path, "neither", valence=0.2, arousal=0.2))
    kept_weights.add(trial(tmp_path, "expression", expression=0.05))
    assert kept(tmp_path) == {"valence", "arousal", "expression"}
    kept_weights.add(trial(tmp_path, "better", valence=0.95, arousal=0.05))
    assert kept(tmp_path) == {"better", "arousal", "expression"}


def test_a_new_driver_keeps_the_same(tmp_path):
    ended = [trial(tmp_path, f"t{n}", valence=value) for n, value in enumerate((0.3, 0.1, 0.2))]
    again = KeptWeights(tmp_path, dict.fromkeys(ended, False), 2)
    assert kept(tmp_path) == {"t0", "t2"}
    for name in ended:
        again.add(name)
    assert kept(tmp_path) == {"t0", "t2"}
    again.add(trial(tmp_path, "t3", valence=0.25))
    assert kept(tmp_path) == {"t0", "t3"}


def test_a_trial_that_failed_keeps_no_weights_and_takes_nobodys_place(tmp_path):
    kept_weights = KeptWeights(tmp_path, {trial(tmp_path, "failed", valence=0.9): True}, 1)
    kept_weights.add(trial(tmp_path, "first", valence=0.5))
    kept_weights.add(trial(tmp_path, "second", valence=0.7), failed=True)
    assert kept(tmp_path) == {"first"}


def test_a_trial_that_never_came_to_a_score_keeps_nothing(tmp_path):
    (tmp_path / "early" / "weights").mkdir(parents=True)
    kept_weights = KeptWeights(tmp_path, {"twin-without-a-folder": True}, 25)
    kept_weights.add("early")
    assert kept(tmp_path) == set()


def test_it_counts_what_trials_take(tmp_path):
    kept_weights = KeptWeights(tmp_path, {}, 1)
    kept_weights.add(trial(tmp_path, "one", valence=0.1))
    assert kept_weights.gb * 1e9 == pytest.approx(folder_bytes(tmp_path))
    kept_weights.add(trial(tmp_path, "two", valence=0.2))
    assert kept_weights.gb * 1e9 == pytest.approx(folder_bytes(tmp_path))
    assert 1000 < kept_weights.gb * 1e9 < 2000


def test_a_checkpoint_that_a_kill_left_behind_an_end_goes(tmp_path):
    (tmp_path / trial(tmp_path, "ended") / "checkpoint.safetensors").write_bytes(b"epoch 3")
    KeptWeights(tmp_path, {"ended": False}, 25)
    assert not (tmp_path / "ended" / "checkpoint.safetensors").exists()
    assert (tmp_path / "ended" / "scores.json").exists()
