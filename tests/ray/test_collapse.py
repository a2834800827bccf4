"""Test of a sweep on Ray in which a huge learning rate makes all tasks of some trials collapse."""

import pytest
from optuna.trial import TrialState

from mtl.tasks import TASKS
from sweeps.run import main
from tests.support.small_sweeps import SMALL, recorded, scores, space_file, trial_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HUGE = 30.0


def test_collapsed_trials_are_pruned_and_counted_and_others_are_not_touched(
    planted, ray_address, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    space_file(
        tmp_path,
        planted.address,
        search={"trials": 6, "seed": 3, "sampler": "random"},
        pruner={"kind": "none"},
        fixed={**SMALL, "encoder": "transformer", "training.epochs": 5},
        space={"optim.lr": {"values": [1e-3, HUGE]}, "training.seed": {"min": 1, "max": 99}},
    )
    assert main(["--space", "space.yaml", "--address", ray_address]) == 0
    folder = tmp_path / "runs" / "small"
    trials = recorded(folder)
    fallen = [trial for trial in trials if trial.params["optim.lr"] == HUGE]
    assert 0 < len(fallen) < len(trials) == 6
    for trial in trials:
        files = trial_folder(folder, trial)
        assert (files / "predictions.parquet").exists()
        assert not (files / "error.txt").exists()
        if trial in fallen:
            # The first epoch gives outputs that do not vary, and so does the second one.
            assert (trial.state, trial.last_step) == (TrialState.PRUNED, 2)
            assert trial.user_attrs["reason"] == "collapsed"
            assert trial.user_attrs["decision:2"] == "collapsed"
            assert set(scores(files)["collapsed"]) == TASKS.keys()
        else:
            assert (trial.state, trial.last_step) == (TrialState.COMPLETE, 5)
            assert trial.user_attrs.keys() == {"overrides", "signature"}
            assert "collapsed" not in scores(files)
    count = f"collapsed and pruned: {len(fallen)} ("
    printed = capsys.readouterr().out
    assert printed.count(count) == 1
    assert printed.count(": collapsed [") == len(fallen)
    board = (folder / "report" / "leaderboard.md").read_text()
    assert board.count(count) == 1
    assert board.count("| pruned (collapsed) |") == len(fallen)
