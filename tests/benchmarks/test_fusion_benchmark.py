"""Tests of the fusion benchmark on few trials and of its comparison with a plain loop."""

import importlib
import json
from types import ModuleType

import numpy as np
import pytest

from tests.support.paths import ROOT

PROGRAMS = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PROGRAMS)
    return importlib.import_module("fusion")


def test_the_benchmark_times_both_selections(benchmark, tmp_path, capsys):
    benchmark.main(["--trials=5", "--frames=600", "--videos=10", f"--folder={tmp_path}"])
    *_, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["trials"] == 5
    assert found["greedy_s"] > 0 < found["plain_greedy_s"]
    assert all(1 <= steps <= benchmark.STEPS for steps in found["steps"].values())
    assert not list(tmp_path.iterdir())


def test_the_benchmark_fails_if_the_plain_loop_chooses_others(benchmark, tmp_path, monkeypatch):
    plain = benchmark.plain_greedy
    monkeypatch.setattr(
        benchmark,
        "plain_greedy",
        lambda *data: {name: [4 - m for m in taken] for name, taken in plain(*data).items()},
    )
    with pytest.raises(AssertionError):
        benchmark.main(["--trials=5", "--frames=600", "--videos=10", f"--folder={tmp_path}"])


def test_trials_differ_in_skill(benchmark, tmp_path):
    listing = benchmark.make_listing(10, 600)
    rows = np.flatnonzero(listing.video < 10)
    benchmark.write_trials(tmp_path, listing, 6, rows)
    scores = [
        json.loads((trial / "scores.json").read_text())["select"]["score"]
        for trial in (tmp_path / "trials").iterdir()
    ]
    assert max(scores) - min(scores) > 0.05
