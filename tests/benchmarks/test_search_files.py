"""Tests of the comparison of two search files over seeds."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from scipy import stats

from tests.support.paths import ROOT

SCORES = {1: (1.5, 1.7), 2: (1.6, 1.65), 3: (1.4, 1.75)}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("search_files")


def test_each_file_is_run_for_each_seed_and_the_scores_are_compared(
    benchmark: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = []

    def run(command: list[str], cwd: Path, check: bool) -> None:
        """Write the scores of a sweep in place of the program ``run.py``."""
        words = dict(word.split("=") for word in command if "=" in word)
        side, seed = words["name"].split("-")
        assert words["search.seed"] == seed
        assert command[3] == str(tmp_path / f"{side}.yaml")
        folder = cwd / "runs" / words["name"]
        folder.mkdir(parents=True)
        score = SCORES[int(seed)][side == "after"]
        confirm = {"fused": {"p_labelled": score}, "fused_raw": {"p_labelled": 0.0}}
        (folder / "scores.json").write_text(json.dumps({"confirm": confirm}))
        commands.append((side, int(seed), words["search.trials"], check))

    monkeypatch.setattr(benchmark.subprocess, "run", run)
    files = [str(tmp_path / f"{side}.yaml") for side in ("before", "after")]
    options = ["--out", str(tmp_path / "out"), "--seeds", "1", "2", "3"]
    monkeypatch.setattr(sys, "argv", ["x", *files, "search.trials=4", *options])
    benchmark.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])

    assert commands == [(side, seed, "4", True) for seed in SCORES for side in benchmark.SIDES]
    gains = [after - before for before, after in SCORES.values()]
    low, high = stats.t.interval(0.95, 2, sum(gains) / 3, stats.sem(gains))
    assert result["difference"] == pytest.approx(0.2, abs=1e-4)
    assert result["interval"] == pytest.approx([low, high], abs=1e-4)
    assert (result["before"], result["after"]) == (1.5, 1.7)
