"""Estimated time of a sweep: the arithmetic is that of its trials, pruned and within the budget."""

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mtl.training.batch_time import BatchTime
from sweeps.planning.sweep_time import (
    SIMULATED_TRIALS,
    estimate,
    longest_seconds,
    mean_epochs,
)
from sweeps.planning.time_estimate import TimedConfig, choose_configs, work_of
from tests.support.timed_configs import WIDE, plan_of, timed


def test_mean_epochs_follow_successive_halving():
    assert mean_epochs(20, 21, 3, 10) == 20  # no rung
    assert mean_epochs(20, 2, 2, 1) == 20  # the only trial of a study goes on
    # Of two trials the second goes on if it is better than the first.
    assert mean_epochs(20, 12, 2, 2) == pytest.approx(12 + 8 * 0.75, rel=0.02)
    # Of many trials, somewhat more than a third goes on at each rung.
    assert 6.7 < mean_epochs(27, 3, 3, 5000) < 7.4


def test_a_sweep_takes_the_time_of_its_trials_divided_by_the_slots(tmp_path):
    plan = plan_of(
        tmp_path,
        "search.trials=12",
        "encoder=gru",
        "sequence.window_frames=10",
        "optim.batch_videos=4",
        pruner={"kind": "none"},
    )
    known = [replace(timed(1, 0.5), sized=choose_configs(plan)[0])]
    work = work_of(plan, known[0].sized.config)
    assert (work.training_steps, work.select_steps, work.end_steps) == (2, 2, 6)
    # Eight epochs, and the predictions by the four tasks' best models.
    trial = 8 * (2 * 0.5 + 2 * 0.25) + 4 * 6 * 0.25
    found = estimate(plan, known, 3)
    assert found is not None
    assert found.expected_seconds == found.most_seconds == pytest.approx(12 * trial / 3)
    pruned = plan_of(
        tmp_path / "pruned",
        "search.trials=12",
        "encoder=gru",
        "sequence.window_frames=10",
        "optim.batch_videos=4",
        pruner={"kind": "asha", "min_epochs": 1, "reduction_factor": 2},
    )
    shorter = estimate(pruned, known, 3)
    assert shorter is not None
    assert shorter.most_seconds == pytest.approx(found.most_seconds)
    assert 0.2 < shorter.expected_seconds / shorter.most_seconds < 0.7


def test_new_seeds_are_not_pruned_and_first_points_count(tmp_path):
    common = {"space": WIDE, "pruner": {"kind": "none"}}
    plan = plan_of(tmp_path, "search.trials=30", **common)
    known = [
        TimedConfig(s, work_of(plan, s.config), BatchTime(s.parameters / 1e4, 0.1, 0))
        for s in choose_configs(plan)
    ]
    plain = estimate(plan, known, 1)
    assert plain is not None
    seeds = plan_of(
        tmp_path / "seeds",
        "search.trials=30",
        compare={"by": ["encoder"], "seeds": 10},
        **common,
    )
    repeated = estimate(seeds, known, 1)
    assert repeated is not None
    assert 1.6 < repeated.most_seconds / plain.most_seconds < 2.4
    large = [
        {"encoder.hidden": 64, "framework": "single_task", "sequence.window_frames": w}
        for w in (16, 32)
    ]
    given = plan_of(tmp_path / "given", search={"trials": 30, "seed": 3, "first": large}, **common)
    longer = estimate(given, known, 1)
    assert longer is not None
    assert 1.0 < longer.most_seconds / plain.most_seconds < 1.5


def test_the_size_of_models_and_data_bounds_the_time(tmp_path):
    """The default sweep on the demo is short by this bound, but one of wide models is not."""
    plan = plan_of(tmp_path, "search.trials=12", pruner={"kind": "none"})
    known = [
        TimedConfig(s, work_of(plan, s.config), BatchTime(0.01, 0.005, 0))
        for s in choose_configs(plan)
    ]
    timed = estimate(plan, known, 2)
    assert timed is not None
    bound = longest_seconds(plan, 2)
    assert timed.most_seconds < bound < 60
    assert longest_seconds(plan, 1) == pytest.approx(2 * bound)
    more = plan_of(tmp_path / "more", "search.trials=24", pruner={"kind": "none"})
    assert longest_seconds(more, 2) == pytest.approx(2 * bound)
    wide = plan_of(tmp_path / "wide", "search.trials=12", "encoder.hidden=2048")
    assert longest_seconds(wide, 2) > 50 * bound


def test_without_a_timed_config_there_is_no_estimate(tmp_path):
    plan = plan_of(tmp_path)
    failed = replace(timed(1, 1.0), time=None, failure="out of memory")
    assert estimate(plan, [failed], 1) is None


def test_a_huge_sweep_is_estimated_at_once(tmp_path):
    started = time.monotonic()
    assert mean_epochs(27, 3, 3, 10**12) == mean_epochs(27, 3, 3, SIMULATED_TRIALS)
    plan = plan_of(tmp_path, "search.trials=1000000000", pruner={"kind": "asha"})
    known = [replace(timed(1, 0.5), sized=choose_configs(plan)[0])]
    found = estimate(plan, known, 2)
    assert found is not None
    assert found.expected_seconds < found.most_seconds
    assert time.monotonic() - started < 20


def test_the_budget_ends_a_sweep_that_would_be_longer(tmp_path):
    common = "search.trials=100000", "encoder=gru"
    limits = {
        "budget.minutes": {"minutes": 60},
        "budget.until": {"until": (datetime.now(UTC) + timedelta(minutes=50)).isoformat()},
    }
    for key, budget in limits.items():
        plan = plan_of(tmp_path / key, *common, budget=budget)
        known = [replace(timed(1, 0.5), sized=choose_configs(plan)[0])]
        found = estimate(plan, known, 2)
        assert found is not None
        assert 2900 < found.expected_seconds == found.most_seconds <= 3600
        assert found.limit == key
        assert longest_seconds(plan, 1) <= 3600
    plan = plan_of(tmp_path / "long", "search.trials=3", "encoder=gru", budget={"minutes": 60})
    known = [replace(timed(1, 0.05), sized=choose_configs(plan)[0])]
    found = estimate(plan, known, 2)
    assert found is not None
    assert found.limit == ""


def test_predictions_bound_the_time_where_few_videos_train(tmp_path):
    """Most frames are predicted, as in a dataset with many test videos."""
    plan = plan_of(tmp_path, "search.trials=12", pruner={"kind": "none"})
    train = dict.fromkeys(plan.parts, "test") | {
        name: part
        for name, part in plan.parts.items()
        if part != "train" or name == min(n for n, p in plan.parts.items() if p == "train")
    }
    fewer = replace(plan, parts=train)
    slow = [
        TimedConfig(s, work_of(fewer, s.config), BatchTime(0.1, 0.05, 0))
        for s in choose_configs(fewer)
    ]
    found = estimate(fewer, slow, 1)
    assert found is not None
    assert found.most_seconds <= longest_seconds(fewer, 1)
