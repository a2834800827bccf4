"""Estimate of a sweep's time beside its first trial, and the question whether it is to go on."""

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mtl.training.batch_time import BatchTime
from sweeps.planning.compose import compose
from sweeps.planning.plan import Plan, make_plan
from sweeps.records.messages import Job
from sweeps.search import start_estimate as module
from sweeps.search.batch_timer import NoSlot, TimingJob
from sweeps.search.start_estimate import StartEstimate
from sweeps.study import Proposal
from tests.support.small_data import make_dataset, search_file
from tests.support.small_sweeps import wait_until

LONG = 100_000.0
"""Seconds of a batch with which a sweep takes more than four hours."""


@pytest.fixture
def plan(tmp_path) -> Plan:
    file = search_file(tmp_path, pruner={"kind": "none"})
    return make_plan(file, make_dataset(tmp_path / "data"))


class Sweep:
    """Sweep of which the first trial starts when a test says so."""

    def __init__(self, plan: Plan, timer: Any, ask: bool = True) -> None:
        self.said: list[str] = []
        self.stopped = threading.Event()
        self.estimate = StartEstimate(plan, 2, timer, "timed in a test", self.said.append, ask)

    def starts(self, number: int = 0) -> Proposal:
        proposal = Proposal("demo", number, (), f"signature{number}", {})
        self.estimate.started(proposal, Job("demo", compose(["encoder.hidden=8"]).plain()))
        return proposal

    def stop(self) -> None:
        self.stopped.set()


def timer_of(seconds: float, asked: list[TimingJob] | None = None) -> Callable[..., BatchTime]:
    def timer(job: TimingJob, stopped: Callable[[], bool]) -> BatchTime:
        if asked is not None:
            asked.append(job)
        return BatchTime(seconds, seconds, 0)

    return timer


def test_batches_are_timed_when_the_first_trial_has_started_and_not_before(plan):
    asked: list[TimingJob] = []
    sweep = Sweep(plan, timer_of(1.0, asked))
    with sweep.estimate.running(sweep.stop):
        assert not asked
        first = sweep.starts()
        wait_until(lambda: bool(sweep.said), 60)
        number = len(asked)
        sweep.starts(1)
        sweep.estimate.epoch(first, {"epoch": 1, "seconds": 1.0})
    assert 1 <= number == len(asked)
    (line,) = sweep.said
    assert line.startswith("the sweep takes about ")
    assert line.endswith(" on 2 slots (timed in a test)")


def test_a_sweep_that_ends_before_its_first_trial_starts_is_not_timed(plan):
    asked: list[TimingJob] = []
    sweep = Sweep(plan, timer_of(1.0, asked))
    with sweep.estimate.running(sweep.stop):
        pass
    assert asked == sweep.said == []


@pytest.mark.parametrize(
    ("seconds", "ask", "no", "asked"),
    [
        (LONG, True, True, True),
        (LONG, True, False, True),
        (LONG, False, True, False),
        (0.001, True, True, False),
    ],
    ids=["no", "yes", "not to be asked", "short"],
)
def test_the_user_is_asked_once_above_four_hours(plan, monkeypatch, seconds, ask, no, asked):
    questions: list[bool] = []

    def answers_no(over: Callable[[], bool]) -> bool:
        questions.append(over())
        return no

    monkeypatch.setattr(module, "answers_no", answers_no)
    sweep = Sweep(plan, timer_of(seconds), ask)
    with sweep.estimate.running(sweep.stop):
        sweep.starts()
        wait_until(lambda: bool(sweep.said), 60)
        if asked:
            wait_until(lambda: bool(questions), 60)
        if asked and no:
            assert sweep.stopped.wait(60)
    assert questions == [False] * asked
    assert sweep.stopped.is_set() == (asked and no)
    (line,) = sweep.said
    assert line.endswith("; it has begun: go on? [Y/n]") == asked
    if asked:
        assert "hours" in line or "days" in line


def test_no_answer_until_the_end_of_the_sweep_is_no_stop(plan, monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(reader) as silent, os.fdopen(writer):
        monkeypatch.setattr(sys, "stdin", silent)
        sweep = Sweep(plan, timer_of(LONG))
        with sweep.estimate.running(sweep.stop):
            sweep.starts()
            wait_until(lambda: bool(sweep.said), 60)
    assert sweep.said[0].endswith("go on? [Y/n]")
    assert not sweep.stopped.is_set()
    assert "estimate" not in [thread.name for thread in threading.enumerate()]


def test_on_gpus_the_second_epoch_of_the_first_trial_is_timed(plan):
    sweep = Sweep(plan, None)
    with sweep.estimate.running(sweep.stop):
        first, second = sweep.starts(), sweep.starts(1)
        sweep.estimate.epoch(second, {"epoch": 1, "seconds": 9.0})
        sweep.estimate.epoch(second, {"epoch": 2, "seconds": 9.0})
        sweep.estimate.epoch(first, {"epoch": 1, "seconds": 9.0})
        assert not sweep.said
        sweep.estimate.epoch(first, {"epoch": 2, "seconds": 60.0})
        wait_until(lambda: bool(sweep.said), 60)
        sweep.estimate.epoch(first, {"epoch": 3, "seconds": 1.0})
    # Four trials of three epochs of a minute, two at a time.
    assert sweep.said == ["the sweep takes about 6.0 minutes on 2 slots (timed in a test)"]


def test_on_gpus_the_next_trial_is_timed_if_the_first_ends_early(plan):
    """The first fails, the second loses its process, the third has one epoch."""
    sweep = Sweep(plan, None)
    with sweep.estimate.running(sweep.stop):
        first = sweep.starts()
        sweep.estimate.epoch(first, {"epoch": 1, "seconds": 9.0})
        sweep.estimate.ended(first, "failed", "it broke")
        second = sweep.starts(1)
        sweep.estimate.epoch(second, {"epoch": 1, "seconds": 9.0})
        sweep.estimate.again(second, "its process died")
        third = sweep.starts(2)
        sweep.estimate.epoch(third, {"epoch": 1, "seconds": 9.0})
        sweep.estimate.ended(third, "complete", None)
        again = replace(sweep.starts(1), reported={1: 0.5})
        sweep.estimate.ended(first, "complete", None)  # not the one that is timed
        sweep.estimate.epoch(again, {"epoch": 2, "seconds": 9.0})
        assert not sweep.said
        sweep.estimate.epoch(again, {"epoch": 3, "seconds": 60.0})
        wait_until(lambda: bool(sweep.said), 60)
    assert sweep.said == ["the sweep takes about 6.0 minutes on 2 slots (timed in a test)"]


def test_a_cluster_without_a_free_slot_is_no_error(plan):
    def timer(job: TimingJob, stopped: Callable[[], bool]) -> BatchTime:
        raise NoSlot("no slot of the cluster answers within 60 s")

    sweep = Sweep(plan, timer)
    with sweep.estimate.running(sweep.stop):
        sweep.starts()
        wait_until(lambda: bool(sweep.said), 60)
    assert "could not be estimated" in sweep.said[0]
    assert "no slot of the cluster" in sweep.said[0]


def test_the_end_of_a_sweep_stops_the_timing(plan):
    """The timer waits until it is told to stop."""

    def timer(job: TimingJob, stopped: Callable[[], bool]) -> BatchTime:
        begun.set()
        wait_until(stopped, 60)
        raise NoSlot("stopped")

    begun = threading.Event()
    sweep = Sweep(plan, timer)
    with sweep.estimate.running(sweep.stop):
        sweep.starts()
        assert begun.wait(60)
    assert sweep.said == []
