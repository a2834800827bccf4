"""Tests of the benchmarks of mechanisms, training speed and ceiling, on small data."""

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats

from mtl.synthetic import Demo
from tests.support.paths import ROOT

SMALL = Demo(videos=16, split_shares=(0.4, 0.5, 0.1), mean_frames=30)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def benchmark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module(request.param)


@pytest.mark.parametrize("benchmark", ["mechanisms"], indirect=True)
@pytest.mark.parametrize("name", ["temporal", "feedback", "smoothing", "useless"])
def test_a_mechanism_is_scored_with_and_without(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(benchmark, "DEMO", SMALL)
    monkeypatch.setattr(benchmark, "BASE", ("training.epochs=1", "training.device=cpu"))
    without, with_it = benchmark.scores_without_and_with((name, 101))
    assert np.isfinite([without, with_it]).all()
    assert benchmark.scores_without_and_with((name, 101)) == (without, with_it)


@pytest.mark.parametrize("benchmark", ["mechanisms"], indirect=True)
def test_verdict_follows_from_the_interval(benchmark: ModuleType) -> None:
    pays, unsure = [(0.1, 0.3), (0.2, 0.5), (0.1, 0.2)], [(0.1, 0.3), (0.2, 0.1), (0.1, 0.1)]
    found = {"temporal": benchmark.summary(pays * 2), "useless": benchmark.summary(unsure)}
    gains = [0.2, -0.1, 0.0]
    expected = stats.t.interval(0.95, 2, np.mean(gains), stats.sem(gains))
    assert found["useless"]["interval"] == pytest.approx(expected)
    lines = benchmark.table(found).splitlines()
    assert lines[2].endswith("| pays |")
    assert lines[3].endswith("| does not show |")


@pytest.mark.parametrize("benchmark", ["training"], indirect=True)
@pytest.mark.parametrize("encoder", ["gru", "transformer"])
def test_the_training_loop_is_measured(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, encoder: str
) -> None:
    sizes = {"VIDEOS": 12, "FRAMES": 3600, "VALIDATION_VIDEOS": 4, "VALIDATION_FRAMES": 100}
    for name, value in sizes.items():
        monkeypatch.setattr(benchmark, name, value)
    dataset = benchmark.make_dataset(tmp_path / "data", {"one": 3, "other": 2})
    found = benchmark.measure(dataset, encoder, 1)
    lengths = np.sort([len(v) for v in benchmark.make_trainer(dataset, encoder).data.train])
    assert lengths.sum() == 3600
    assert found["padding"] > 1
    assert min(found.values()) > 0
    assert found["gain"] == pytest.approx(found["ours"] / found["authors"], abs=1e-3)


@pytest.mark.parametrize("benchmark", ["ceiling"], indirect=True)
def test_models_reach_a_share_of_the_exact_posterior(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "Demo", lambda: replace(SMALL, videos=0))
    monkeypatch.setattr(benchmark, "TRAINING", ("training.epochs=1", "training.device=cpu"))
    found = benchmark.relative_scores((16, 11))
    assert found.keys() == {"posterior", *benchmark.ROWS}
    assert 0 < found["gru"] < found["filter"] < 1.05
