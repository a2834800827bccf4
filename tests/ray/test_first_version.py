"""Tests that a sweep and an extraction stopped in the first version can be resumed."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from sweeps import extract
from sweeps.run import main
from tests.support.first_version import FIRST_VERSION, copied, expected
from tests.support.small_sweeps import recorded

pytestmark = [pytest.mark.ray]
TOLERANCE = 1e-4
"""Largest difference of a score between two kinds of processor."""


def test_a_stopped_sweep_resumes_to_the_results_of_an_undisturbed_one(
    ray_address, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = copied(tmp_path) / "runs" / "feedback"
    (ended,) = run.glob("trials/*/predictions.parquet")
    trained_before = ended.read_bytes()
    assert main(["--space", "space.yaml", "--address", ray_address]) == 0
    assert ended.read_bytes() == trained_before
    trials, wanted = recorded(run), expected()["trials"]
    assert len(trials) == len(wanted)
    for trial, before in zip(trials, wanted, strict=True):
        assert trial.state.name == before["state"]
        assert trial.params == before["params"]
        assert trial.user_attrs["signature"] == before["signature"]
        decisions = {k: v for k, v in trial.user_attrs.items() if k.startswith("decision")}
        assert decisions == before["decisions"]
        reported = list(trial.intermediate_values.values())
        np.testing.assert_allclose(reported, list(before["reported"].values()), atol=TOLERANCE)
    scores = json.loads((run / "scores.json").read_text())
    for part in ("select", "confirm"):
        found, then = (
            content[part]["fused"]["p_labelled"] for content in (scores, expected()["scores"])
        )
        assert found == pytest.approx(then, abs=TOLERANCE)
    assert (run / "submission.txt").read_text().splitlines() == expected()["submission"]


def test_a_stopped_extraction_resumes_to_the_same_features(ray_address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    part = copied(tmp_path) / "features" / "part-00001.parquet"
    part.unlink()
    first = part.with_name("part-00000.parquet")
    written = first.stat().st_mtime_ns
    command = json.loads((FIRST_VERSION / "features" / "extraction.json").read_text())["command"]
    assert extract.main([*command.split()[1:], "--address", ray_address]) == 0
    assert first.stat().st_mtime_ns == written
    before = pq.read_table(FIRST_VERSION / "features" / "part-00001.parquet")
    found = pq.read_table(part)
    assert found.drop(["feature"]).equals(before.drop(["feature"]))
    features = (np.stack(table["feature"].to_numpy()) for table in (found, before))
    np.testing.assert_allclose(*features, atol=1e-2)  # float16
