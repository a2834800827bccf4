"""Estimated time of a sweep: timed configs span the space, and the arithmetic is that of trials."""

from dataclasses import replace

import numpy as np
import pytest

from mtl.sequences.windows import carried_schedule, free_schedule
from mtl.training.inference import EVALUATION_LANES
from sweeps.planning.compose import compose
from sweeps.planning.plan import SizedConfig, make_plan
from sweeps.planning.time_estimate import (
    MOST_TIMED,
    Work,
    _line,
    _prediction_steps,
    _training_steps,
    batch_seconds,
    choose_configs,
    work_of,
)
from tests.support.small_data import FRAMES, NAMES, make_dataset, search_file
from tests.support.timed_configs import WIDE, plan_of, timed


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
    # All windows of training fit in a batch, and so do the six that predict two videos.
    assert (free.training_windows, free.prediction_windows) == (4, 3)
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


def test_known_good_points_are_timed_once_each_and_the_cheapest_config_first(tmp_path):
    plan = plan_of(
        tmp_path,
        space=WIDE,
        search={
            "trials": 9,
            "seed": 3,
            "first": [{"encoder": "lstm", "framework": "feedback", "encoder.hidden": 64}],
        },
    )
    (given,) = plan.given
    other_features = [given._replace(parameters=given.parameters + more) for more in (1, 2)]
    chosen = choose_configs(replace(plan, given=tuple(other_features)))
    sizes = [sized.parameters for sized in chosen if sized in other_features]
    assert sizes == [given.parameters + 2]
    sizes = [s.parameters * s.config.sequence.window_frames for s in chosen]
    assert sizes == sorted(sizes)


def test_the_line_neither_falls_nor_starts_below_zero():
    assert _line([1, 3], [2.0, 4.0], 5) == pytest.approx(6)
    assert _line([1, 3], [4.0, 2.0], 5) == pytest.approx(_line([1, 3], [4.0, 2.0], 1))
    assert _line([1, 3], [1.0, 5.0], 0) == pytest.approx(0)
    assert _line([2, 2], [1.0, 5.0], 9) == 3


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
