"""Test of a comparison on Ray: the best config of each compared value gets new seeds."""

import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState

from mtl.evaluation import metrics
from mtl.predictions.table import Predictions
from sweeps.fusion.frames import listed_rows
from sweeps.planning.plan import divide
from sweeps.run import main
from tests.support.small_sweeps import SMALL, recorded, space_file, trial_folder, written

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_best_config_of_each_value_is_trained_with_new_seeds_and_compared(
    planted, ray_address, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    space_file(
        tmp_path,
        planted.address,
        name="compared",
        compare={"by": ["encoder"], "seeds": 2},
        fixed={**SMALL, "training.epochs": 3},
        space={
            "encoder": {"values": ["gru", "lstm"]},
            "optim.lr": {"min": 1e-3, "max": 1e-1, "log": True},
        },
    )
    command = ["--space", "space.yaml", "--address", ray_address]
    with redirect_stdout(io.StringIO()) as printed:
        assert main(command) == 0
    folder = tmp_path / "runs" / "compared"
    repeats = [trial for trial in recorded(folder) if "repeat_of" in trial.user_attrs]
    assert [trial.state for trial in repeats] == [TrialState.COMPLETE] * 4
    assert all(trial.last_step == 3 for trial in repeats), "a rung stopped a repeat"
    assert {trial.user_attrs["overrides"][-1] for trial in repeats} == {
        "training.seed=1001",
        "training.seed=1002",
    }
    comparison = json.loads((folder / "report" / "comparison.json").read_text())
    listing = planted.listing()
    confirm = [name for name, part in divide(listing, 0.5, 3).items() if part == "confirm"]

    def score(trial: FrozenTrial) -> float | None:
        predictions = Predictions.load(trial_folder(folder, trial) / "predictions.parquet")
        in_confirm = np.isin([predictions.names[video] for video in predictions.video], confirm)
        rows = listed_rows(listing, predictions)[in_confirm]
        outputs = predictions.outputs[in_confirm]
        return metrics.scores(outputs, listing.values[rows], listing.mask[rows])["ccc_valence"]

    for encoder in ("gru", "lstm"):
        of_encoder = [
            t for t in repeats if t.user_attrs["repeat_of"].startswith(f"compared/{encoder} ")
        ]
        scores = comparison["standings"]["valence"][encoder]["scores"]
        assert scores == pytest.approx(list(map(score, of_encoder)))
    table = (folder / "report" / "comparison.md").read_text()
    assert table.strip() in printed.getvalue()
    before = written(folder / "trials")
    with redirect_stdout(io.StringIO()):
        assert main(command) == 0
    assert written(folder / "trials") == before
    assert (folder / "report" / "comparison.md").read_text() == table
