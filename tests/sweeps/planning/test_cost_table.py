"""Text on the time and memory of a sweep."""

import pytest

from mtl.training.batch_time import BatchTime
from sweeps.planning.compose import compose
from sweeps.planning.cost_table import (
    config_name,
    describe_cost,
    duration,
    duration_range,
    features_bytes,
)
from sweeps.planning.plan import Plan, make_plan
from sweeps.planning.sweep_time import SweepTime
from sweeps.planning.time_estimate import TimedConfig, choose_configs, work_of
from tests.support.small_data import NAMES, WIDTH, make_dataset, search_file


def plan_of(tmp_path, *overrides: str, **changes) -> Plan:
    return make_plan(search_file(tmp_path, *overrides, **changes), make_dataset(tmp_path / "data"))


def test_a_row_holds_the_seconds_or_the_reason_why_there_are_none(tmp_path):
    plan = plan_of(tmp_path, space={"encoder.hidden": {"values": [8, 16]}}, fixed={})
    first, second = choose_configs(plan)
    work = work_of(plan, first.config)
    timed = [
        TimedConfig(first, work, BatchTime(0.25, 0.5, 3 * 10**9)),
        TimedConfig(second, work, None, "out of memory"),
    ]
    title, head, one, other, time, memory, *notes = describe_cost(plan, timed, 2, "here").split(
        "\n"
    )
    assert title == "  timed     here"
    assert head.split() == ["configuration", "parameters", "a", "batch", "an", "epoch"]
    assert one.split()[-4:] == ["250", "ms", "750", "ms"]  # one training and one prediction batch
    assert f"{first.parameters:,}" in one
    assert other.endswith("  not timed: out of memory")
    assert time.startswith("  time      about ")
    assert time.endswith(" on 2 slots")
    assert "3 GB at least for the training of a worker, beside 0.4 GB for its process" in memory
    assert "3 GB at most for the training" in describe_cost(plan, timed[:1], 2, "here")
    assert notes == []


def test_notes_on_workers_refits_and_too_little_memory(tmp_path):
    plan = plan_of(tmp_path, "resources.workers_per_trial=2", refit={"folds": 4})
    (sized,) = choose_configs(plan)
    timed = [TimedConfig(sized, work_of(plan, sized.config), BatchTime(1.0, 1.0, 10**15))]
    text = describe_cost(plan, timed, 1, "here")
    assert "on 1 slot, without the refits on folds" in text
    assert "the share of one worker was timed, without the exchange of gradients" in text
    assert "2 workers need 2000001 GB, this machine has" in text
    assert "this machine has" not in describe_cost(plan, timed, 1, "on a slot", local=False)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.31, "0.3 seconds"),
        (59, "59 seconds"),
        (100, "100 seconds"),
        (150, "2.5 minutes"),
        (3600 * 1.9, "114 minutes"),
        (3600 * 31.4, "31 hours"),
        (86400 * 3.25, "3.2 days"),
    ],
)
def test_durations_have_two_digits(seconds, text):
    assert duration(seconds) == text


def test_a_range_is_given_where_trials_are_pruned():
    assert (
        duration_range(SweepTime(7200, 36000)) == "about 2.0 hours with pruning, 10 hours without"
    )
    assert duration_range(SweepTime(7200, 7200)) == "about 2.0 hours"
    limited = duration_range(SweepTime(7200, 36000, "budget.minutes"))
    assert limited == "about 2.0 hours with pruning, 10 hours without (limit budget.minutes)"


def test_configs_have_short_names():
    config = compose(["encoder=transformer", "encoder.hidden=32", "encoder.layers=3"])
    assert config_name(config) == "transformer 32x3 share_encoder, window 64"
    assert config_name(compose(["encoder=per_frame"])).startswith("per_frame ")


def test_the_features_of_listed_frames_are_kept_in_memory(tmp_path):
    """Videos have features for 30 frames, of which 20 are listed."""
    data = make_dataset(
        tmp_path / "data", frames={"appearance": dict.fromkeys(NAMES, range(1, 31))}
    )
    file = search_file(tmp_path)
    assert features_bytes(make_plan(file, data)) == 4 * WIDTH * 20 * len(NAMES)
    every = search_file(tmp_path, "sequence.frames=all")
    assert features_bytes(make_plan(every, data)) == 4 * WIDTH * 30 * len(NAMES)
