"""Tests of the ridge baseline: closed form, moving averages, and the program."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from mtl.synthetic import Demo, make_demo
from mtl.tasks import AROUSAL, TASKS, UNITS, VALENCE
from tests.support.paths import ROOT

PROGRAM = ROOT / "benchmarks" / "ridge.py"


@pytest.fixture(scope="module")
def ridge() -> ModuleType:
    """Benchmark program as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_ridge", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_regressions_equal_scikit_learns(ridge: ModuleType) -> None:
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(2, 1, (60, 5)), rng.normal(size=(60, 3)), rng.normal(size=(4, 5))
    fold = np.arange(60) % 3
    out_of_fold, final = ridge.regress(x, y, fold, new)
    for p, penalty in enumerate(ridge.PENALTIES):
        reference = Ridge(alpha=penalty)
        np.testing.assert_allclose(final[p], reference.fit(x, y).predict(new), atol=1e-8)
        for k in range(3):
            reference.fit(x[fold != k], y[fold != k])
            expected = reference.predict(x[fold == k])
            np.testing.assert_allclose(out_of_fold[p, fold == k], expected)


@pytest.mark.parametrize("radius", [0, 1.5, 4, 100])
def test_moving_average_equals_a_loop(ridge: ModuleType, radius: float) -> None:
    frames = np.array([1, 2, 5, 9, 30], dtype=np.int32)
    values = np.random.default_rng(0).normal(size=(5, 2))
    at = np.array([30, 2, 9], dtype=np.int32)
    expected = [values[np.abs(frames - t) <= radius].mean(axis=0) for t in at]
    np.testing.assert_allclose(ridge.moving_average(values, frames, at, radius), expected)


def test_a_frame_without_features_uses_its_nearest_frames(ridge: ModuleType) -> None:
    frames, values = np.array([4, 10], dtype=np.int32), np.array([[1.0], [2.0]])
    at = np.array([1, 6, 8, 99], dtype=np.int32)
    assert ridge.moving_average(values, frames, at, 0).ravel().tolist() == [1, 1, 2, 2]
    only = ridge.moving_average(values[:1], frames[:1], at, 0)
    assert only.ravel().tolist() == [1, 1, 1, 1]


def test_columns_labelled_alike_cover_each_labelled_column_once(ridge: ModuleType) -> None:
    mask = np.ones((6, 15), dtype=bool)
    mask[:3, 3:5] = False
    mask[:, 7] = False
    groups = ridge.columns_labelled_alike(UNITS, mask)
    assert sorted(c for columns, _ in groups for c in columns) == [c for c in range(12) if c != 4]
    for columns, rows in groups:
        assert (mask[:, 3 + columns] == rows[:, None]).all()


def test_prior_shift_meets_the_positive_rate(ridge: ModuleType) -> None:
    rng = np.random.default_rng(0)
    guess, y = rng.normal(size=(1000, 12)), (rng.random((1000, 12)) < 0.2).astype(float)
    nothing, prior = ridge.decision_shifts(UNITS, guess, y, np.ones(y.shape, dtype=bool))
    assert not nothing.any()
    np.testing.assert_allclose((guess + prior >= 0.5).mean(0), y.mean(0), atol=0.002)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_unlabelled_task_is_not_predicted(ridge: ModuleType, task: object) -> None:
    x, labels = np.ones((10, 2)), np.zeros((10, 15), dtype=np.float32)
    mask = np.zeros((10, 15), dtype=bool)
    assert np.isnan(ridge.fit_task(task, x, labels, mask, np.arange(10) % 5, x)).all()


def test_valence_and_arousal_stay_in_their_range(ridge: ModuleType) -> None:
    x, labels = np.zeros((50, 1)), np.zeros((50, 15), dtype=np.float32)
    x[:, 0] = labels[:, 0] = labels[:, 1] = np.linspace(-0.9, 0.9, 50)
    new = np.array([[-40.0], [0.5], [40.0]])
    for task in (VALENCE, AROUSAL):
        mask = np.ones(labels.shape, bool)
        outputs = ridge.fit_task(task, x, labels, mask, np.arange(50) % 5, new)
        np.testing.assert_allclose(outputs, [[-1], [0.5], [1]], atol=1e-3)


def test_program_ends_with_one_json_line(tmp_path: Path) -> None:
    make_demo(tmp_path / "demo", 1, Demo(videos=14, mean_frames=60))
    command = [sys.executable, PROGRAM, "--data", tmp_path / "demo", "--smooth-seconds", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["validation"]["frames"] > result["confirm"]["frames"] > 0
    assert "| confirm |" in done.stdout


def test_program_refuses_a_missing_dataset_in_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, PROGRAM, "--data", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
