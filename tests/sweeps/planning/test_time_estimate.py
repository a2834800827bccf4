"""Estimated time of a sweep: timed configs span the space, and the arithmetic is that of trials."""

from dataclasses import replace

import numpy as np
import pytest

from mtl.sequences.windows import carried_schedule, free_schedule
from mtl.training.batch_time import BatchTime
from mtl.training.inference import EVALUATION_LANES
from sweeps.planning.compose import compose
from sweeps.planning.plan import Plan, SizedConfig, make_plan
from sweeps.planning.time_estimate import (
    MOST_TIMED,
    TimedConfig,
    Work,
    _line,
    _prediction_steps,
    _training_steps,
    batch_seconds,
    choose_configs,
    estimate,
    longest_seconds,
    mean_epochs,
    work_of,
)
from tests.support.small_data import FRAMES, NAMES, make_dataset, search_file

WIDE = {
    "encoder": {"values": ["gru", "lstm", "transformer"]},
    "framework": {"values": ["share_encoder", "single_task", "feedback"]},
    "encoder.hidden": {"values": [8, 16, 64]},
    "sequence.window_frames": {"values": [16, 32]},
}


def plan_of(tmp_path, *overrides: str, **changes) -> Plan:
    tmp_path.mkdir(exist_ok=True)
    file = search_file(tmp_path, *overrides, **{"fixed": {"training.epochs": 8}, **changes})
    return make_plan(file, make_dataset(tmp_path / "data"))


@pytest.mark.parametrize("lanes", [1, 4, 16])
@pytest.mark.parametrize("window", [16, 64])
def test_steps_are_those_of_the_real_schedules(lanes, window):
    random = np.random.default_rng(lanes)
    lengths = [int(n) for n in random.integers(5, 900, 40)]
    carried = carried_schedule(lengths, lanes, window, random)
    assert _training_steps(lengths, lanes, window, carried=True) == len(carried)
    free = free_schedule(lengths, lanes, window, random)
    assert _training_steps(lengths, lanes, window, carried=False) == pytest.approx(
        len(free), rel=0.1
    )
    for schedule, is_carried in ((carried_schedule, True), (free_schedule, False)):
        real = schedule(lengths, EVALUATION_LANES, window, None)
        assert _prediction_steps(lengths, window, carried=is_carried) == len(real)


def test_the_work_of_a_trial_follows_from_frames_stride_and_workers(tmp_path):
    """Four videos of 20 frames train; two each are select, confirm and test."""
    plan = plan_of(tmp_path, "resources.workers_per_trial=2")
    fixed = ["sequence.window_frames=10", "optim.batch_videos=3", "encoder=gru"]
    work = work_of(plan, compose(fixed))
    assert work == Work(2, 1, training_steps=4, select_steps=2, end_steps=6)
    assert work_of(plan, compose([*fixed, "sequence.frame_stride=2"])).training_steps == 2
    assert work_of(plan, compose([*fixed, "optim.batch_videos=16"])).training_windows == 2
    free = work_of(plan, compose([*fixed, "encoder=transformer", "optim.batch_videos=16"]))
    assert (free.training_windows, free.prediction_windows) == (8, EVALUATION_LANES // 2)
    assert (free.training_steps, free.select_steps) == (1, 1)


def test_unlisted_frames_count_where_a_config_trains_on_them(tmp_path):
    frames = {"appearance": dict.fromkeys(NAMES, range(1, 2 * len(FRAMES) + 1))}
    file = search_file(tmp_path, space={"sequence.frames": {"values": ["listed", "all"]}})
    plan = make_plan(file, make_dataset(tmp_path / "data", frames=frames))
    one = ["encoder=gru", "optim.batch_videos=1", "sequence.window_frames=10"]
    steps = [
        work_of(plan, compose([*one, f"sequence.frames={f}"])).training_steps
        for f in ("listed", "all")
    ]
    assert steps == [8, 16]


def test_timed_configs_span_the_space_and_depend_on_the_seed_only(tmp_path):
    plan = plan_of(tmp_path, space=WIDE)
    chosen = choose_configs(plan)
    assert 6 <= len(chosen) <= MOST_TIMED
    assert {s.config.encoder.name for s in chosen} == set(WIDE["encoder"]["values"])
    assert {s.config.framework.name for s in chosen} == set(WIDE["framework"]["values"])
    sizes = [s.parameters * s.config.sequence.window_frames for s in plan.sampled]
    of_chosen = [s.parameters * s.config.sequence.window_frames for s in chosen]
    assert (min(of_chosen), max(of_chosen)) == (min(sizes), max(sizes))
    again = choose_configs(plan_of(tmp_path / "again", space=WIDE))
    assert again == chosen


def test_known_good_points_are_timed_first(tmp_path):
    plan = plan_of(
        tmp_path,
        space=WIDE,
        search={
            "trials": 9,
            "seed": 3,
            "first": [{"encoder": "lstm", "framework": "feedback", "encoder.hidden": 64}],
        },
    )
    first = choose_configs(plan)[0].config
    assert (first.encoder.name, first.framework.name) == ("lstm", "feedback")
    assert first.encoder.parameters["hidden"] == 64


def test_mean_epochs_follow_successive_halving():
    assert mean_epochs(20, 21, 3, 10) == 20  # no rung
    assert mean_epochs(20, 2, 2, 1) == 20  # the only trial of a study goes on
    # Of two trials the second goes on if it is better than the first.
    assert mean_epochs(20, 12, 2, 2) == pytest.approx(12 + 8 * 0.75, rel=0.02)
    # Of many trials, somewhat more than a third goes on at each rung.
    assert 6.7 < mean_epochs(27, 3, 3, 5000) < 7.4


def test_the_line_neither_falls_nor_starts_below_zero():
    assert _line([1, 3], [2.0, 4.0], 5) == pytest.approx(6)
    assert _line([1, 3], [4.0, 2.0], 5) == pytest.approx(_line([1, 3], [4.0, 2.0], 1))
    assert _line([1, 3], [1.0, 5.0], 0) == pytest.approx(0)
    assert _line([2, 2], [1.0, 5.0], 9) == 3


def timed(parameters: int, seconds: float, *overrides: str) -> TimedConfig:
    config = compose(["encoder=gru", "sequence.window_frames=10", *overrides])
    batch = BatchTime(seconds, seconds / 2, 0)
    return TimedConfig(SizedConfig(config, parameters), Work(4, 16, 5, 1, 3), batch)


def test_batches_are_interpolated_within_an_encoder_by_their_parameters():
    known = [timed(1000, 0.1), timed(5000, 0.3), timed(1000, 9.0, "encoder=lstm")]
    between = timed(3000, 0.0).sized
    assert batch_seconds(between, known[0].work, known) == pytest.approx((0.2, 0.1))
    twice = timed(3000, 0.0, "sequence.window_frames=20").sized
    assert batch_seconds(twice, known[0].work, known) == pytest.approx((0.4, 0.2))
    fewer = replace(known[0].work, training_windows=2)
    assert batch_seconds(between, fewer, known)[0] == pytest.approx(0.125)
    other = SizedConfig(compose(["encoder=transformer", "sequence.window_frames=10"]), 1000)
    assert batch_seconds(other, known[0].work, known[:1])[0] == pytest.approx(0.1)


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
