"""Tests of the coverage benchmark: population, simulated models and true scores."""

import importlib.util
from itertools import combinations
from types import ModuleType

import numpy as np
import pytest

from mtl.evaluation.metrics import scores, task_score, task_sums
from mtl.tasks import TASKS
from tests.support.paths import ROOT

PROGRAM = ROOT / "benchmarks" / "coverage.py"
VIDEOS = 200


def small() -> ModuleType:
    """Load the program as a new module with a small population."""
    spec = importlib.util.spec_from_file_location("benchmark_coverage", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module)["VIDEOS"] = VIDEOS
    return module


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    return small()


def members(coverage, *skills):
    """Return one model per skill, all with the same errors."""
    mix = np.random.default_rng(0).standard_normal(coverage.FIELDS)
    return [coverage.Member(skill, mix / np.linalg.norm(mix)) for skill in skills]


def ensemble(coverage):
    """Return an ensemble of two members, one with weight 2, for every task."""
    one, other = coverage.draw_trials(np.random.default_rng(0))[0][:2]
    return {name: [(one, 1), (other, 2)] for name in TASKS}


def test_population_is_the_same_in_every_process(coverage):
    first, second = coverage.draw_population(), small().draw_population()
    assert first is not second
    for name in ("video", "labels", "fields"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert len(np.unique(first.video)) == VIDEOS


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS.keys())
def test_a_higher_skill_scores_better(coverage, task):
    population = coverage.draw_population()
    labels = population.labels[:, task.labels]
    found = [
        task_score(
            task,
            task_sums(
                task,
                member.outputs(population, slice(None), task),
                labels,
                np.ones(labels.shape, bool),
            ),
        )
        for member in members(coverage, 0.25, 0.5, 1.0, 2.0)
    ]
    assert found == sorted(found)
    assert found[-1] - found[0] > 0.2


def test_outputs_of_a_video_are_the_same_in_any_set(coverage):
    population, chosen = coverage.draw_population(), ensemble(coverage)
    rows = population.rows(np.array([3, 17, 101]))
    assert set(population.video[rows]) == {3, 17, 101}
    of_all = coverage.outputs_of(chosen, population, slice(None))
    of_some = coverage.outputs_of(chosen, population, rows)
    np.testing.assert_allclose(of_some, of_all[rows], rtol=1e-5, atol=1e-6)


def test_errors_of_trials_are_correlated_as_documented(coverage):
    random = np.random.default_rng(0)
    correlations = []
    for _ in range(20):
        trials = coverage.draw_trials(random)
        assert all(abs(np.linalg.norm(m.mix) - 1) < 1e-9 for trial in trials for m in trial)
        correlations += [one[0].mix @ other[0].mix for one, other in combinations(trials, 2)]
    assert np.mean(correlations) == pytest.approx(0.6, abs=0.1)


def test_true_sums_give_the_scores_of_all_frames(coverage):
    population, chosen = coverage.draw_population(), ensemble(coverage)
    sums = coverage.true_sums(chosen, population)
    outputs = coverage.outputs_of(chosen, population, slice(None))
    known = np.ones(population.labels.shape, bool)
    truth = scores(outputs, population.labels, known)["p_mtl"]
    pooled = {name: per_video.sum(axis=0) for name, per_video in sums.items()}
    assert float(coverage.pooled_p(pooled)) == pytest.approx(truth)
    videos = np.array([3, 17, 101])
    some = {name: per_video[videos].sum(axis=0) for name, per_video in sums.items()}
    bootstrap_score = coverage.bootstrap_scores(chosen, population, population.rows(videos))[
        "p_labelled"
    ].score
    assert float(coverage.pooled_p(some)) == pytest.approx(bootstrap_score)


def test_search_finds_the_most_skilled(coverage):
    population = coverage.draw_population()
    weak, middle, strong = members(coverage, 0.3, 0.6, 2.0)
    trials = [[weak, middle], [middle, strong, weak], [weak, weak]]
    fused, single = coverage.search(trials, population, population.rows(np.arange(100)))
    for name in TASKS:
        assert single[name] == [(strong, 1)]
        assert strong in [member for member, _ in fused[name]]


def test_a_simulated_sweep_depends_only_on_its_number(coverage):
    first, other = (coverage.simulate((10, number)) for number in (0, 1))
    assert coverage.simulate((10, 0)) == first
    assert other != first
    for name in ("score", "gain"):
        assert first[f"{name}_held"] in (0, 1)
        assert first[f"{name}_width"] > 0
        assert first[f"{name}_oracle"] > 0


def test_table_prints_means(coverage):
    names = ("true", "held", "held_by_percentiles", "width", "oracle", "flattered")
    numbers = ((1.0, 1, 0, 0.5, 0.25, 0.25), (2.0, 0, 0, 0.25, 0.25, -0.5))
    sweeps = [
        {f"{of}_{k}": float(v) for of in ("score", "gain") for k, v in zip(names, n, strict=True)}
        for n in numbers
    ]
    sweeps[0]["gain_true"] = -1.0
    lines = coverage.table({19: sweeps, 300: sweeps[:1]}).splitlines()
    assert lines[2] == "| 19 | fused P | 1.500 | 50.0% | 0.0% | 0.375 | 0.250 | -0.125 |"
    assert lines[3] == "| 19 | fused - single | 0.500 | 50.0% | 0.0% | 0.375 | 0.250 | -0.125 |"
    assert lines[4] == "| 300 | fused P | 1.000 | 100.0% | 0.0% | 0.500 | 0.250 | +0.250 |"
    assert len(lines) == 6
