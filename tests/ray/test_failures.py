"""Tests of failing trials, and of broken features that are found after the start of a sweep."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

from sweeps.cli.run_program import run_program
from sweeps.planning.compose import compose, signature
from sweeps.run import main
from tests.support.small_sweeps import facts, recorded, space_file, trial_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE: dict[str, Any] = {
    "encoder": {"values": ["gru", "lstm"]},
    "encoder.hidden": {"values": [8, 12]},
    "optim.lr": {"values": [1e-3, 1e30]},
}
FIXED: dict[str, Any] = {"head": "linear", "optim.gradient_clip": 0, "training.epochs": 2}


def damage_checkpoints_of_gru(folder: Path, dataset_hash: str) -> None:
    """Write unreadable checkpoints, as a failing disk may leave them, for all gru trials."""
    fixed = [f"{path}={value}" for path, value in FIXED.items()]
    for hidden in SPACE["encoder.hidden"]["values"]:
        config = compose([*fixed, "encoder=gru", f"encoder.hidden={hidden}", "optim.lr=0.001"])
        trial = folder / "trials" / signature(config, dataset_hash)
        trial.mkdir(parents=True)
        (trial / "checkpoint.safetensors").write_bytes(b"no checkpoint")


def test_failed_trials_are_recorded_and_too_many_end_the_sweep(
    planted, ray_address, tmp_path, monkeypatch, capsys
):
    """The seed draws five trials in a fixed order.

    One completes, one diverges, one has a damaged checkpoint, and two more diverge.
    """
    monkeypatch.chdir(tmp_path)
    space_file(
        tmp_path,
        planted.address,
        search={"trials": 5, "seed": 0, "sampler": "random"},
        pruner={"kind": "none"},
        space=SPACE,
        fixed=FIXED,
        resources={"concurrent_trials": 1},
    )
    folder = tmp_path / "runs" / "small"
    command = ["--space", "space.yaml", "--address", ray_address]
    assert main([*command, "search.trials=1"]) == 0
    damage_checkpoints_of_gru(folder, planted.hash)

    assert main([*command, "budget.failures=1"]) == 1
    trials = recorded(folder)
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert re.fullmatch(
        r"TrainingError: the loss of .* is not finite at epoch 1, step \d+: lower optim.lr = .*",
        trials[1].user_attrs["reason"],
    )
    assert trials[2].user_attrs["reason"].startswith("TrainingError: the checkpoint is damaged (")
    for trial, message in zip(trials[1:], ("is not finite", "is damaged"), strict=True):
        assert message in (trial_folder(folder, trial) / "error.txt").read_text()
        assert not (trial_folder(folder, trial) / "predictions.parquet").exists()
    printed = capsys.readouterr().out
    assert "2 trials failed, more than budget.failures = 1; the last: TrainingError: " in printed
    assert trials[1].user_attrs["reason"] in (folder / "report" / "leaderboard.md").read_text()
    assert (folder / "submission.txt").exists()

    assert main([*command, "budget.failures=4"]) == 0
    after = recorded(folder)
    assert facts(after)[:3] == facts(trials)
    assert [t.state for t in after[3:]] == [TrialState.FAIL] * 2


def copy_with_nan(dataset: Path, copy: Path) -> Path:
    """Copy a dataset with one value replaced by NaN, and return the file with this value."""
    shutil.copytree(dataset, copy)
    info = json.loads((copy / "dataset.json").read_text())
    (part,) = info["features"]["appearance"]["parts"]
    file = copy / part["file"]
    with pq.ParquetFile(file) as reader:
        table = reader.read()
    values = np.array(table["feature"].combine_chunks().values)
    width = info["features"]["appearance"]["width"]
    values[100 * width + 7] = np.nan
    feature = pa.FixedSizeListArray.from_arrays(pa.array(values), width)
    broken = table.set_column(2, table.schema.field("feature"), feature)
    pq.write_table(broken, file, row_group_size=part["group_rows"][0])
    (entry,) = [entry for entry in info["files"] if entry["file"] == part["file"]]
    entry["bytes"] = file.stat().st_size
    (copy / "dataset.json").write_text(json.dumps(info))
    return file


def test_a_nan_found_while_sharding_is_reported_in_one_line(
    planted, ray_address, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    file = copy_with_nan(Path(planted.address), tmp_path / "data")
    space_file(tmp_path, "data")
    with pytest.raises(SystemExit) as ended:
        run_program(lambda: main(["--space", "space.yaml", "--address", ray_address]))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert f"data/{file.relative_to(tmp_path / 'data')}" in line
    assert "row 101" in line
    assert "nan" in line.lower()
    assert recorded(tmp_path / "runs" / "small") == []
