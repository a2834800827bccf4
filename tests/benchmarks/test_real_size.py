"""Tests of the benchmark on data of s-Aff-Wild2's size, on small data of the same shape."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mtl.dataset import open_dataset
from mtl.errors import InputError
from mtl.evaluation.metrics import scores
from mtl.synthetic.layout import draw_layout
from mtl.synthetic.parameters import View
from mtl.tasks import TASKS
from tests.support.paths import ROOT

SPACE = """
name: small
data: DIR
fixed: {training.epochs: 2, features: [mae, iresnet], encoder.hidden: 8, head: linear}
space:
  encoder: {values: [gru, transformer]}
  optim.lr: {min: 1e-3, max: 1e-2, log: true}
"""
KNOWN = {
    "ridge mae": {"ccc_valence": 0.5, "ccc_arousal": 0.4},
    "ridge iresnet+mae": {"ccc_valence": 0.5, "ccc_arousal": 0.8},
}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("real_size")


@pytest.fixture
def run(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """Function that runs the program and returns the JSON object in its last line."""

    def program(*words: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["real_size.py", *words])
        benchmark.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return result

    return program


def small(benchmark: ModuleType) -> Any:
    views = (("mae", View(12, (1.0, 0.6, 0.8))), ("iresnet", View(8, (0.5, 0.9, 1.0))))
    shares = (0.5, 0.4, 0.1)
    return replace(
        benchmark.REAL_SIZE,
        videos=60,
        split_shares=shares,
        split_frames=(1500, 900, 100),
        views=views,
    )


def test_the_planted_size_is_that_of_the_challenge(benchmark: ModuleType) -> None:
    layout = draw_layout(np.random.default_rng(0), benchmark.REAL_SIZE)
    splits = ("train", "validation", "test")
    assert tuple(int(layout.rows(split).sum()) for split in splits) == (142_333, 26_876, 51_159)
    assert tuple(layout.splits.count(split) for split in splits) == (258, 49, 82)
    assert min(len(frames) for frames in layout.frames) > 1
    assert {view.width for _, view in benchmark.REAL_SIZE.views} == {768, 512}
    gaps = np.concatenate([np.diff(frames) for frames in layout.frames])
    assert gaps.min() >= 1
    assert len(set(gaps.tolist())) > 10


def test_draws_are_trained_and_counted(
    benchmark: ModuleType,
    run: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(benchmark, "REAL_SIZE", small(benchmark))
    planted = run("plant", "--out", str(tmp_path))
    ridge, ceiling = planted["full"]["ridge iresnet+mae"], planted["full"]["ceiling"]
    assert ceiling["p_mtl"] > ridge["p_mtl"] > 0
    assert planted["full"]["ridge mae"] != ridge
    assert planted["fifth"].keys() == planted["full"].keys()
    full, fifth = (open_dataset(str(tmp_path / name)).listing() for name in ("full", "fifth"))
    assert set(fifth.names) < set(full.names)
    assert {s: fifth.splits.count(s) for s in fifth.splits} == {
        s: -(-full.splits.count(s) // 5) for s in full.splits
    }

    space, out = tmp_path / "space.yaml", tmp_path / "draws.jsonl"
    space.write_text(SPACE)
    words = ["draws", "--data", str(tmp_path / "fifth"), "--space", str(space), "--out", str(out)]
    words += ["--jobs", "1"]
    first = run(*words, "--draws", "1")["draws"]
    both = run(*words, "--draws", "2")["draws"]
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["number"] for line in lines] == [0, 1]
    assert (first["draws"], both["draws"]) == (1, 2)
    with pytest.raises(InputError, match="another draw 0 than this command makes"):
        run(*words, "--draws", "3", "--seed", "2")
    out.write_text(out.read_text() + out.read_text()[:50])  # a kill while the third was written
    assert run("table", str(out))["draws"]["draws"] == 2
    assert run(*words, "--draws", "2")["draws"] == both
    assert [json.loads(line) for line in out.read_text().splitlines()] == lines
    for line in lines:
        assert line["overrides"] == benchmark.draw(str(space), [], 41, line["number"])
        assert set(line["best_scores"]) == set(TASKS)
        assert len(line["output_spread"]) == 2


def test_a_whole_dataset_is_prepared_from_annotation_files(
    benchmark: ModuleType, run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    benchmark.write_planted(tmp_path, benchmark.plant(small(benchmark), 3), 3, small(benchmark))
    found = run("prepare", "--data", str(tmp_path), "encoder.hidden=8")["prepare"]
    assert found["epoch_frames"] == 1500
    assert min(found["prepare_seconds"], found["prepare_gb"]) > 0


def test_the_summary_counts_what_it_names(benchmark: ModuleType) -> None:
    def line(valence: float | None, arousal: float, **changes: Any) -> dict[str, Any]:
        best = {"valence": valence, "arousal": arousal}
        plain = {
            "features": ["mae"],
            "collapsed": False,
            "collapsed_tasks": [],
            "error": None,
            "seconds": 30.0,
        }
        return {**plain, "best_scores": best, **changes}

    draws = [
        line(0.6, 0.5),
        line(0.6, 0.4),
        line(0.5, 0.9),
        line(0.6, 0.5, features=["mae", "iresnet"]),
        line(0.6, 0.9, features=["mae", "iresnet"]),
        line(None, 0.9),
        line(0.0, 0.0, collapsed=True, collapsed_tasks=["valence"]),
        line(0.9, 0.9, error="not finite", collapsed_tasks=["arousal"]),
    ]
    found = benchmark.summary(draws, KNOWN)
    counts = ("draws", "collapsed", "some_task_collapsed", "failed", *benchmark.ABOVE, "minutes")
    assert [found[key] for key in counts] == [8, 1, 2, 1, 3, 2, 4.0]
    assert found["arousal"][-1] == 0.9


def test_ridge_and_ceiling_are_scored_on_select_alone(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    planted = benchmark.plant(small(benchmark), 3)
    benchmark.write_planted(tmp_path, planted, 3, small(benchmark))
    listing = open_dataset(str(tmp_path)).listing()
    parts = benchmark.divide(listing, 0.5, 1234)
    chosen = np.array([parts[name] == "select" for name in listing.names])[listing.video]
    best = benchmark.Predictions.load(tmp_path / benchmark.CEILING_FILE)
    rows = np.flatnonzero(np.array([s == "validation" for s in listing.splits])[listing.video])
    expected = scores(best.outputs[chosen[rows]], listing.values[chosen], listing.mask[chosen])
    assert benchmark.baselines(tmp_path)["ceiling"]["p_mtl"] == pytest.approx(expected["p_mtl"])
