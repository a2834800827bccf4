"""Test of a refit on Ray: after a kill, the same command trains only the missing folds."""

import io
import os
import signal
from contextlib import redirect_stdout

import numpy as np
import pytest
from optuna.trial import TrialState

from mtl.predictions.table import Predictions
from sweeps.run import main
from sweeps.train import main as train
from tests.support.small_sweeps import (
    END_SECONDS,
    SMALL,
    START_SECONDS,
    program,
    recorded,
    scores,
    space_file,
    trial_folder,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]
FOLDS = 3


def test_a_refit_trains_members_on_folds_and_resumes_after_a_kill(
    planted, ray_address, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    space_file(
        tmp_path,
        planted.address,
        search={"trials": 2, "seed": 3},
        fixed={**SMALL, "training.epochs": 6},
        refit={"folds": FOLDS},
    )
    folder = tmp_path / "runs" / "small"
    command = ["--space", "space.yaml", "--address", ray_address]

    def ended() -> list[str]:
        if not (folder / "study.journal").exists():
            return []
        trials = [t for t in recorded(folder) if "fold" in t.user_attrs]
        return [t.user_attrs["signature"] for t in trials if t.state == TrialState.COMPLETE]

    with program(tmp_path, *command) as driver:
        wait_until(lambda: len(ended()) >= 1, START_SECONDS, (tmp_path / "output.txt").read_text)
        # The best fused model so far is written before the sweep ends, without reading confirm.
        wait_until((folder / "scores.json").exists, START_SECONDS)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait(END_SECONDS)
    so_far = scores(folder)
    assert so_far["confirm"] is None
    assert so_far["select"]["fused"]["p_labelled"] is not None
    assert (folder / "submission.txt").exists()
    before = {name: (folder / "trials" / name / "predictions.parquet").stat() for name in ended()}
    with redirect_stdout(io.StringIO()) as printed:
        assert main(command) == 0
    for name, stat in before.items():
        file = folder / "trials" / name / "predictions.parquet"
        assert file.stat().st_mtime_ns == stat.st_mtime_ns, f"{name} was trained again"
    assert scores(folder)["confirm"] is not None
    trials = [trial for trial in recorded(folder) if "fold" in trial.user_attrs]
    members = {trial.user_attrs["fold_of"] for trial in trials}
    assert len(trials) == FOLDS * len(members)
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert "out of fold" in printed.getvalue()
    assert (folder / "refit" / "submission.txt").exists()
    outputs = Predictions.load(folder / "refit" / "predictions.parquet").outputs
    assert np.isfinite(outputs).all()
    _check_that_train_predicts_the_same(folder, planted.address, trials[-1])


def _check_that_train_predicts_the_same(folder, data, trial):
    trial_path = trial_folder(folder, trial)
    words = [*trial.user_attrs["overrides"], f"--fold={trial.user_attrs['fold']}of{FOLDS}"]
    with redirect_stdout(io.StringIO()):
        assert train(["--data", data, "--out", str(folder / "alone"), *words]) == 0
    alone = Predictions.load(folder / "alone" / "predictions.parquet")
    swept = Predictions.load(trial_path / "predictions.parquet")
    np.testing.assert_array_equal(alone.video, swept.video)
    np.testing.assert_allclose(alone.outputs, swept.outputs, atol=1e-5)
