"""Tests of the kept weights: only the best trials of each task keep theirs."""

import json
from pathlib import Path

import pytest

from mtl.errors import InputError
from mtl.tasks import TASKS
from sweeps.storage import kept_weights as module
from sweeps.storage.kept_weights import FEWEST_KEPT, KeptWeights, kept_per_task


def trial(run_folder: Path, name: str, **scores: float | None) -> str:
    """Make an ended trial with a kilobyte of weights and return its signature."""
    folder = run_folder / "trials" / name
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "epoch_001.safetensors").write_bytes(bytes(1000))
    select = {"score": 1.0, **dict.fromkeys(TASKS), **scores}
    (folder / "scores.json").write_text(json.dumps({"select": select}))
    return name


def kept(run_folder: Path) -> set[str]:
    """Return the signatures of the trials that have weights."""
    return {path.parent.name for path in (run_folder / "trials").glob("*/weights")}


def total_bytes(run_folder: Path) -> int:
    return sum(file.stat().st_size for file in run_folder.rglob("*") if file.is_file())


def test_the_25_best_are_kept_in_any_order_of_ending(tmp_path):
    values = [((7 * n) % 40) / 40 for n in range(40)]
    kept_weights = KeptWeights(tmp_path, {}, 25)
    for number, value in enumerate(values):
        kept_weights.add(trial(tmp_path, f"t{number:02d}", valence=value))
    best = sorted(range(40), key=lambda n: -values[n])[:25]
    assert kept(tmp_path) == {f"t{number:02d}" for number in best}
    assert len(list(tmp_path.glob("trials/*/scores.json"))) == 40


def test_a_trial_among_the_best_of_one_task_is_kept(tmp_path):
    kept_weights = KeptWeights(tmp_path, {}, 1)
    kept_weights.add(trial(tmp_path, "valence", valence=0.9, arousal=0.1))
    kept_weights.add(trial(tmp_path, "arousal", valence=0.1, arousal=0.9))
    kept_weights.add(trial(tmp_path, "neither", valence=0.2, arousal=0.2))
    kept_weights.add(trial(tmp_path, "expression", expression=0.05))
    assert kept(tmp_path) == {"valence", "arousal", "expression"}
    kept_weights.add(trial(tmp_path, "better", valence=0.95, arousal=0.05))
    assert kept(tmp_path) == {"better", "arousal", "expression"}


def test_a_new_driver_keeps_the_same_trials(tmp_path):
    ended = [trial(tmp_path, f"t{n}", valence=value) for n, value in enumerate((0.3, 0.1, 0.2))]
    again = KeptWeights(tmp_path, dict.fromkeys(ended, False), 2)
    assert kept(tmp_path) == {"t0", "t2"}
    for name in ended:
        again.add(name)
    assert kept(tmp_path) == {"t0", "t2"}
    again.add(trial(tmp_path, "t3", valence=0.25))
    assert kept(tmp_path) == {"t0", "t3"}


def test_a_failed_trial_keeps_no_weights_and_is_not_ranked(tmp_path):
    kept_weights = KeptWeights(tmp_path, {trial(tmp_path, "failed", valence=0.9): True}, 1)
    kept_weights.add(trial(tmp_path, "first", valence=0.5))
    kept_weights.add(trial(tmp_path, "second", valence=0.7), failed=True)
    assert kept(tmp_path) == {"first"}


def test_a_trial_without_a_score_keeps_no_weights(tmp_path):
    (tmp_path / "trials" / "early" / "weights").mkdir(parents=True)
    kept_weights = KeptWeights(tmp_path, {"twin-without-a-folder": True}, 25)
    kept_weights.add("early")
    assert kept(tmp_path) == set()


def ranked_trials(run_folder: Path, number: int = 9) -> list[str]:
    """Make trials t0, t1, ... of which each has a lower score than the one before it."""
    return [trial(run_folder, f"t{n}", valence=1 - n / 100) for n in range(number)]


def test_weights_of_the_last_in_each_task_go_first(tmp_path):
    kept_weights = KeptWeights(tmp_path, dict.fromkeys(ranked_trials(tmp_path), False))
    kept_weights.add(trial(tmp_path, "arousal", valence=0.1, arousal=0.9))
    assert kept_per_task(tmp_path) == kept_weights.keep == 25
    before = total_bytes(tmp_path)
    assert kept_weights.keep_fewer()  # the last of ten in valence, but the best in arousal
    assert kept(tmp_path) == {*(f"t{n}" for n in range(9)), "arousal"}
    assert kept_weights.keep_fewer()
    assert kept(tmp_path) == {*(f"t{n}" for n in range(8)), "arousal"}
    assert kept_per_task(tmp_path) == kept_weights.keep == 8
    small_file = (tmp_path / "kept_weights.json").stat().st_size
    assert total_bytes(tmp_path) == before - 1000 + small_file
    assert kept_weights.gb * 1e9 == pytest.approx(total_bytes(tmp_path) - small_file)
    kept_weights.add(trial(tmp_path, "new", valence=0.925))  # it ranks ninth
    assert "new" not in kept(tmp_path)
    assert len(list(tmp_path.glob("trials/*/scores.json"))) == 11


def test_the_best_of_each_task_keep_their_weights_however_short_disk_space_is(tmp_path):
    kept_weights = KeptWeights(tmp_path, dict.fromkeys(ranked_trials(tmp_path), False))
    while kept_weights.keep_fewer():
        pass
    assert kept(tmp_path) == {f"t{n}" for n in range(FEWEST_KEPT)}
    assert not kept_weights.keep_fewer()
    few = tmp_path / "few"
    assert not KeptWeights(few, dict.fromkeys(ranked_trials(few, 5), False)).keep_fewer()
    assert not (few / "kept_weights.json").exists()


def test_the_weights_that_can_be_removed_are_measured_beforehand(tmp_path):
    kept_weights = KeptWeights(tmp_path, dict.fromkeys(ranked_trials(tmp_path), False))
    kept_weights.add(trial(tmp_path, "arousal", valence=0.1, arousal=0.9))
    assert kept_weights.removable_bytes() == 4 * 1000  # t5 to t8
    assert len(kept(tmp_path)) == 10
    while kept_weights.keep_fewer():
        pass
    assert kept_weights.removable_bytes() == 0
    assert len(kept(tmp_path)) == 6


def test_no_weights_go_if_their_number_cannot_be_written(tmp_path, monkeypatch):
    kept_weights = KeptWeights(tmp_path, dict.fromkeys(ranked_trials(tmp_path), False))

    def write(file: Path, content: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", write)
    with pytest.raises(OSError, match="No space left"):
        kept_weights.keep_fewer()
    assert kept_weights.keep == kept_per_task(tmp_path) == 25
    assert len(kept(tmp_path)) == 9


class Killed(BaseException):
    """Simulated death of the driver."""


def test_a_sweep_killed_between_two_removals_keeps_the_same_trials(tmp_path, monkeypatch):
    """Two trials lose their weights; the driver dies at each removal, and another one goes on."""

    def run(folder: Path, dies_at: int) -> set[str]:
        ended = ranked_trials(folder)
        ended.append(trial(folder, "arousal", valence=0.95, arousal=0.9))
        ended += [trial(folder, f"low{n}", arousal=n / 10) for n in range(9)]
        removals = iter(range(dies_at))

        def remove(self: module.TrialFolder) -> None:
            if self.weights_folder.exists() and next(removals, None) is None:
                raise Killed
            real_remove(self)

        with monkeypatch.context() as patch:
            patch.setattr(module.TrialFolder, "remove_weights", remove)
            try:
                KeptWeights(folder, dict.fromkeys(ended, False)).keep_fewer()
                assert dies_at == 2
            except Killed:
                assert dies_at < 2
        again = KeptWeights(folder, dict.fromkeys(reversed(ended), False))
        assert again.keep == kept_per_task(folder) == 9
        assert again.gb * 1e9 == pytest.approx(total_bytes(folder / "trials"))
        return kept(folder)

    real_remove = module.TrialFolder.remove_weights
    unharmed = run(tmp_path / "unharmed", 2)
    assert len(unharmed) == 17
    assert run(tmp_path / "first", 0) == run(tmp_path / "second", 1) == unharmed


@pytest.mark.parametrize(
    "text", ["", "12", "{}", '{"trials_per_task": 0}', '{"trials_per_task": 26}']
)
def test_a_damaged_number_of_kept_trials_is_refused(tmp_path, text):
    (tmp_path / "kept_weights.json").write_text(text)
    with pytest.raises(InputError, match=r"kept_weights.json is damaged: it must hold"):
        KeptWeights(tmp_path, {})


def test_the_size_of_all_trials_is_measured(tmp_path):
    kept_weights = KeptWeights(tmp_path, {}, 1)
    kept_weights.add(trial(tmp_path, "one", valence=0.1))
    assert kept_weights.gb * 1e9 == pytest.approx(total_bytes(tmp_path))
    kept_weights.add(trial(tmp_path, "two", valence=0.2))
    assert kept_weights.gb * 1e9 == pytest.approx(total_bytes(tmp_path))
    assert 1000 < kept_weights.gb * 1e9 < 2000


def test_an_ended_trials_checkpoint_left_by_a_kill_is_removed(tmp_path):
    folder = tmp_path / "trials" / trial(tmp_path, "ended")
    (folder / "checkpoint.safetensors").write_bytes(b"epoch 3")
    KeptWeights(tmp_path, {"ended": False}, 25)
    assert not (folder / "checkpoint.safetensors").exists()
    assert (folder / "scores.json").exists()
