"""Tests of prediction on Ray: equality with the outputs of the sweep and of mtl without Ray."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl.dataset import Dataset
from mtl.dataset.annotations import read_file
from mtl.ensemble import Ensemble, Source
from mtl.errors import InputError
from mtl.predictions.table import Predictions
from mtl.tasks import TASKS
from sweeps import predict
from sweeps.cluster.connection import connect
from sweeps.fusion.frames import listed_rows
from tests.support.small_sweeps import (
    END_SECONDS,
    ROOT,
    START_SECONDS,
    actors,
    scores,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROGRAM = ROOT / "sweeps" / "predict.py"


@pytest.fixture
def swept_folder(swept, monkeypatch) -> Path:
    monkeypatch.chdir(swept)
    return swept


def predict_to_file(
    address: str, data: Dataset, out: Path, *more: str, model: str = "exported"
) -> None:
    arguments = ["--model", model, "--data", data.address, "--out", str(out), "--address", address]
    assert predict.main([*arguments, *more]) == 0


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_mtl_without_ray_gives_the_stored_outputs(swept_folder, planted):
    ensemble = Ensemble.load("exported", "cpu")
    stored = Predictions.load("runs/whole/fusion/predictions.parquet")
    rows = listed_rows(planted.listing(), stored)
    assert_near(ensemble.predict(planted).outputs[rows], stored.outputs)
    source = Source.open(ensemble.export, planted)
    chosen = scores(swept_folder / "runs" / "whole")["members"]
    for name, outputs in ensemble.member_outputs(*source.read(slice(0, len(source.frame)))):
        trial = Predictions.load(f"runs/whole/trials/{name}/predictions.parquet")
        for task in (TASKS[task] for task, counts in chosen.items() if name in counts):
            assert_near(outputs[rows][:, task.outputs], trial.outputs[:, task.outputs])


@pytest.mark.parametrize(("model", "workers"), [("exported", "1"), ("runs/whole", "2")])
def test_ray_gives_the_outputs_of_mtl_without_ray(
    swept_folder, planted, ray_address, tmp_path, workers, model
):
    out = tmp_path / "new.parquet"
    predict_to_file(ray_address, planted, out, "--workers", workers, model=model)
    found, alone = Predictions.load(out), Ensemble.load("exported", "cpu").predict(planted)
    assert found.names == alone.names
    assert np.array_equal(found.video, alone.video)
    assert np.array_equal(found.frame, alone.frame)
    assert_near(found.outputs, alone.outputs)
    assert pq.ParquetFile(out).num_row_groups > int(workers), (
        "the predictions were written in one part"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["new.parquet"]


def test_the_predicted_test_split_equals_the_submission_of_the_sweep(
    swept_folder, planted, ray_address, tmp_path, capsys
):
    out = tmp_path / "test.txt"
    out.write_text("old")
    predict_to_file(ray_address, planted, out, "--split", "test", "--overwrite", "--workers", "2")
    found, stored = read_file(out), read_file("runs/whole/submission.txt")
    assert found.images == stored.images
    assert np.array_equal(found.mask, stored.mask)
    assert_near(found.values, stored.values)
    printed = capsys.readouterr().out
    assert f"{len(found.images)} of {len(found.images)} frames (100%)" in printed


def test_more_workers_than_fit_are_refused(swept_folder, planted, ray_address, tmp_path):
    with pytest.raises(InputError, match=r"--workers 999 x \(--cpus 1\) is more than there is"):
        predict_to_file(ray_address, planted, tmp_path / "new.parquet", "--workers", "999")
    assert not list(tmp_path.iterdir())


def test_a_broken_row_is_an_input_error(swept_folder, planted, ray_address, tmp_path):
    """A worker finds the row, and its message reaches the user unchanged."""
    broken = Path(shutil.copytree(planted.address, tmp_path / "broken"))
    info = put_nan(broken, planted.info["features"]["appearance"]["parts"][0]["file"], row=100)
    out = tmp_path / "new.parquet"
    with pytest.raises(InputError, match=r"row 101: feature 1 of \d+ is nan"):
        predict_to_file(ray_address, Dataset(str(broken), info), out)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def put_nan(folder: Path, part: str, row: int) -> dict[str, Any]:
    """Replace one value of a dataset on disk by NaN and return its new ``dataset.json``."""
    table = pq.read_table(folder / part)
    feature = table["feature"].combine_chunks()
    values = feature.flatten().to_numpy().copy()
    values[row * feature.type.list_size] = np.nan
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values), feature.type.list_size)
    pq.write_table(table.set_column(2, "feature", lists), folder / part)
    info: dict[str, Any] = json.loads((folder / "dataset.json").read_text())
    for entry in info["files"]:
        entry["bytes"] = (folder / entry["file"]).stat().st_size
    (folder / "dataset.json").write_text(json.dumps(info))
    return info


def test_ctrl_c_leaves_no_incomplete_file_and_no_worker(
    swept_folder, planted, ray_address, tmp_path
):
    output = tmp_path / "output.txt"
    arguments = [
        "--model",
        "exported",
        "--data",
        planted.address,
        "--out",
        str(tmp_path / "n.parquet"),
    ]
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments, "--address", ray_address, "--workers", "1"],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            wait_until((tmp_path / "n.parquet.unfinished").exists, START_SECONDS, output.read_text)
            process.send_signal(signal.SIGINT)
            assert process.wait(END_SECONDS) == 130, output.read_text()
        finally:
            process.kill()
            process.wait()
    assert "is not written" in output.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["output.txt"]
    with connect(ray_address) as cluster:
        wait_until(
            lambda: not actors(cluster.dashboard), END_SECONDS, lambda: actors(cluster.dashboard)
        )
