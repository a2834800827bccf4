"""Timing of a sweep's configs: each in its own row, bounded in time, on the slot's device."""

from collections.abc import Callable

import pytest
import torch

from mtl.training.batch_time import BatchTime
from sweeps.planning.plan import Plan, make_plan
from sweeps.search import batch_timer as module
from sweeps.search.batch_timer import NoSlot, TimingJob, time_configs, time_here, timer_beside
from tests.support.small_data import WIDTH, make_dataset, make_listing, search_file

SPACE = {"encoder": {"values": ["gru", "transformer"]}, "encoder.hidden": {"values": [8, 16]}}


def plan_of(tmp_path, *overrides: str, **changes) -> Plan:
    file = search_file(tmp_path, *overrides, **{"fixed": {}, "space": SPACE, **changes})
    return make_plan(
        file, make_dataset(tmp_path / f"data{len(overrides)}", make_listing(known=range(3)))
    )


def test_each_config_is_timed_with_the_tasks_that_have_labels(tmp_path):
    jobs: list[TimingJob] = []

    def timer(job: TimingJob, stopped: Callable[[], bool]) -> BatchTime:
        jobs.append(job)
        return time_here(job)

    threads = torch.get_num_threads()
    timed = time_configs(plan_of(tmp_path, "resources.cpus_per_worker=3"), timer)
    assert len(timed) == len(jobs) >= 3
    assert all(each.time is not None for each in timed)
    assert {(job.tasks, job.width, job.threads) for job in jobs} == {
        (("valence", "arousal", "expression"), WIDTH, 3)
    }
    assert {job.config["training"]["device"] for job in jobs} == {"cpu"}  # no slot has a GPU
    assert torch.get_num_threads() == threads


def test_a_config_that_cannot_be_timed_is_a_row_and_no_error(tmp_path):
    def timer(job: TimingJob, stopped: Callable[[], bool]) -> BatchTime:
        if job.config["encoder"]["name"] == "gru":
            raise RuntimeError("out of memory\nand a long trace")
        return BatchTime(1.0, 1.0, 1)

    timed = time_configs(plan_of(tmp_path), timer)
    failures = {each.sized.config.encoder.name: each.failure for each in timed}
    assert failures["transformer"] == ""
    assert "out of memory" in failures["gru"]
    assert "\n" not in failures["gru"]


def test_a_model_that_is_larger_than_the_machine_is_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "machine_bytes", lambda: 10**4)
    timed = time_configs(plan_of(tmp_path), time_here)
    assert {each.failure.partition(":")[0] for each in timed} == {"MemoryError"}


def test_the_whole_timing_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_SECONDS", -1.0)
    first, *others = time_configs(plan_of(tmp_path), lambda *job: BatchTime(1.0, 1.0, 1))
    assert first.time is not None
    assert {each.failure for each in others} == {"the others took long enough"}


def test_a_cluster_without_a_slot_is_told_to_the_caller(tmp_path):
    def timer(job: TimingJob, stopped: Callable[[], bool]) -> BatchTime:
        raise NoSlot("none is free")

    with pytest.raises(NoSlot, match="none is free"):
        time_configs(plan_of(tmp_path), timer)


def test_the_stop_of_a_sweep_ends_the_timing(tmp_path):
    stops = iter([False, False, True])
    assert (
        len(time_configs(plan_of(tmp_path), lambda *j: BatchTime(1.0, 1.0, 1), stops.__next__)) == 2
    )


def test_a_slot_that_is_lost_later_is_a_row(tmp_path):
    calls: list[TimingJob] = []

    def timer(job: TimingJob, stopped: Callable[[], bool]) -> BatchTime:
        calls.append(job)
        if len(calls) == 2:
            raise NoSlot("none is free")
        return BatchTime(1.0, 1.0, 1)

    first, second, *others = time_configs(plan_of(tmp_path), timer)
    assert first.time is not None
    assert (second.time, second.failure) == (None, "NoSlot: none is free")
    assert all(each.time is not None for each in others)


def test_beside_slots_batches_are_timed_by_a_process_that_holds_nothing(tmp_path, monkeypatch):
    """A process that lacks memory ends alone, and the driver's own process trains nothing."""

    def ray_timer(cpus: float, gpus: float) -> str:
        return f"Ray's task with {cpus} CPUs and {gpus} GPUs"

    monkeypatch.setattr(module, "_ray_timer", ray_timer)
    timer, where = timer_beside(plan_of(tmp_path), "local")
    assert timer == "Ray's task with 0 CPUs and 0 GPUs"
    assert where == "timed beside its first trial, on this machine"
    timer, where = timer_beside(plan_of(tmp_path, "resources.gpus_per_worker=1"), "local")
    assert timer is None
    assert where == "by the second epoch of its first trial"
