"""Tests of the benchmark of the cost of a trial: calculation and table."""

import importlib
from types import ModuleType, SimpleNamespace

import pytest

from tests.support.paths import ROOT

PROGRAMS = ROOT / "benchmarks"


@pytest.fixture
def trial_cost(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Benchmark program as a module."""
    monkeypatch.syspath_prepend(PROGRAMS)
    return importlib.import_module("trial_cost")


def test_the_cost_of_a_trial_excludes_the_first_trial_and_the_starts(
    trial_cost, monkeypatch, tmp_path
):
    times = importlib.import_module("sweep").Times(
        begun=100.0, ray=5.0, starts=(120.0, 131.0, 133.0), ends=(130.0, 132.0, 134.0)
    )
    spent = trial_cost.Spent
    before = [spent(9.0, 9.0), spent(1.0, 0.75), spent(1.5, 1.0)]
    after = [spent(9.0, 9.0), spent(2.0, 1.75), spent(0.5, 0.5)]
    plain = iter([before, after])
    monkeypatch.setattr(trial_cost, "run_sweep", lambda space: times)
    monkeypatch.setattr(trial_cost, "plain_seconds", lambda *_: next(plain))
    monkeypatch.setattr(trial_cost, "epoch_seconds", lambda *_: [8.0, 1.25, 1.25])
    (tmp_path / "demo").mkdir()
    trials = [SimpleNamespace(user_attrs={"signature": name}) for name in "abc"]
    assert trial_cost.measure(tmp_path, trials, 1, 0) == {
        "trial": 2.0,
        "training": 1.25,
        "cost": 0.5,
        "slower": 1.25,
        "difference": 0.75,
        "ray_start": 5.0,
        "slot_start": 15.0,
        "first_trial": 8.0,
        "costs": [0.5, 0.5],
    }


def test_training_seconds_are_read_from_the_progress_of_each_trial(trial_cost, tmp_path):
    for name, seconds in (("a", (0.5, 0.25)), ("b", (1.0,))):
        folder = tmp_path / "runs" / "cost" / "trials" / name
        folder.mkdir(parents=True)
        rows = "\n".join(f"{epoch},{value}" for epoch, value in enumerate(seconds, 1))
        (folder / "progress.csv").write_text(f"epoch,seconds\n{rows}\n")
    assert trial_cost.epoch_seconds(tmp_path / "cost.yaml", ["b", "a"]) == [1.0, 0.75]


def test_the_table_shows_mean_median_and_limit(trial_cost):
    rounds = [
        {"training": 1.0, "difference": 0.4, "cost": 0.3, "costs": [0.2, 0.4]},
        {"training": 1.0, "difference": 0.2, "cost": 0.1, "costs": [0.1]},
        {"training": 1.0, "difference": 0.1, "cost": 0.12, "costs": [0.1, 0.14]},
    ]
    found = trial_cost.summary(rounds)
    assert found == {
        "training": 1.0,
        "difference": 0.2,
        "cost": 0.12,
        "cost_q1": 0.1,
        "cost_median": 0.14,
        "cost_q3": 0.2,
    }
    shown = trial_cost.table({"slot of 1": {**found, "limit": 0.15}})
    assert "| 1.000 | 0.200 | 0.150 | 0.120 | 0.140 | 0.100 | 0.200 |" in shown
