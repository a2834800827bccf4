"""A slot of two DDP workers: trial after trial, and whatever may befall one of them.

The tests share one group, since it takes half a minute to start; after a test that closes it the
next one starts another.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ray import cloudpickle
from ray.exceptions import RayTaskError

from mtl.dataset import Dataset
from mtl.sequences.feature_table import FeatureTable
from sweeps.cluster.connection import Cluster, connect
from sweeps.data.trial_data import FeatureLoader
from sweeps.planning.compose import compose
from sweeps.planning.plan import divide
from sweeps.records.messages import Begin, End, Epoch, Event, Job, TrialFailed
from sweeps.search_file import ResourcesSection
from sweeps.slots.control import Stop
from tests.support.small_sweeps import (
    END_SECONDS,
    EVENT_SECONDS,
    START_SECONDS,
    actors,
    alive,
    placement_groups,
    stream,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ENCODERS = ("gru", "lstm", "transformer")
WORKERS = 2
SLOW_SECONDS = 0.03
"""A read of slow features: some 30 an epoch and worker, so that there is time to disturb it."""
ASKED_SECONDS = 0.3
"""For workers that have an epoch behind them to ask for a decision; they wait until it is told."""
HEARD_SECONDS = 2
"""For a stop that the slot knows of to reach its workers, which hold meanwhile."""
BROKEN_AFTER_READS = 20


@dataclass(frozen=True)
class Hold:
    """Where workers stand still while a file is there, each leaving one that says so."""

    folder: Path

    @property
    def asked(self) -> Path:
        """There while they are to hold."""
        return self.folder / "hold"

    def held(self, rank: int) -> Path:
        """There once this worker does."""
        return self.folder / f"held.{rank}"

    def pass_by(self) -> None:
        """Of a worker: only once nobody asks to hold."""
        while self.asked.exists():
            self.held(_rank()).touch()
            time.sleep(0.01)


class Block:
    """Rows of features that are slow to read, and held, or break in one worker."""

    def __init__(self, kind: str, rows: np.ndarray, hold: Hold) -> None:
        self.kind, self.rows, self.hold, self.reads = kind, rows, hold, 0

    def __getitem__(self, which: Any) -> np.ndarray:
        self.reads += 1
        if self.kind == "slow":
            time.sleep(SLOW_SECONDS)
        if self.kind == "broken" and _rank() == 1 and self.reads > BROKEN_AFTER_READS:
            raise ValueError(f"rows that only rank {_rank()} reads\nare broken")
        found: np.ndarray = self.rows[which]
        # A single row is read before the first step, for its type.
        if self.kind == "slow" and len(found) > 1:
            self.hold.pass_by()
        return found


@dataclass(frozen=True)
class Disturbed:
    """Feature sets named after what happens to those who read them; each worker leaves its pid."""

    shards: FeatureLoader
    pids: Path

    def load(self, name: str) -> FeatureTable:
        """The features of ``appearance``."""
        (self.pids / str(_rank())).write_text(str(os.getpid()))
        table = self.shards.load("appearance")
        blocks: Any = [Block(name, block, Hold(self.pids)) for block in table.blocks]
        return replace(table, blocks=blocks)


def _rank() -> int:
    import torch

    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


# The workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def a_job(name: str, *overrides: str, **fields: Any) -> Job:
    """Four epochs without dropout."""
    small = ("encoder.hidden=8", "encoder.dropout=0", "head=linear", "training.epochs=4")
    config = compose([*small, "optim.batch_videos=4", "sequence.window_frames=32", *overrides])
    return Job(name, config.plain(), **fields)


def a_slow_job(name: str, *overrides: str, **fields: Any) -> Job:
    steps = ("features=[slow]", "optim.batch_videos=2", "sequence.window_frames=16")
    return a_job(name, *steps, *overrides, **fields)


@dataclass
class Group:
    """The slot, by the pool that has it."""

    pool: Any
    cluster: Cluster
    pids_of_ranks: Path
    closed: bool = False

    def close(self) -> None:
        self.pool.close()
        self.closed = True

    @property
    def slot(self) -> Any:
        return self.pool.actor(0)

    def events(self, job: Job) -> Iterator[Event]:
        """A job's events, as the sweep takes them."""
        for event in stream(self.slot, job):
            if isinstance(event, Begin):
                self.pool.placed(0, event.placement_group)
            yield event

    def pids(self) -> list[int]:
        """Those of the workers that trained last, by rank."""
        return [int((self.pids_of_ranks / str(rank)).read_text()) for rank in range(WORKERS)]

    def kill(self, rank: int) -> None:
        """With -9."""
        psutil.Process(self.pids()[rank]).kill()

    @contextmanager
    def mid_epoch(self) -> Iterator[Callable[[], None]]:
        """Hold the workers of a slow job in the first step that they come to; they read nothing
        when this is entered. To be called: waits until all of them hold.
        """
        hold = Hold(self.pids_of_ranks)
        held = [hold.held(rank) for rank in range(WORKERS)]
        for file in held:
            file.unlink(missing_ok=True)
        hold.asked.touch()
        try:
            yield lambda: wait_until(lambda: all(map(Path.exists, held)), END_SECONDS)
        finally:
            hold.asked.unlink()

    def stop(self, when: Stop) -> None:
        """Tell the slot, and have its workers hear it."""
        import ray

        ray.get(self.slot.stop.remote(when))
        time.sleep(HEARD_SECONDS)


@pytest.fixture(scope="module")
def connected(ray_address: str) -> Iterator[Cluster]:
    with connect(ray_address) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def setup(planted: Dataset, connected: Cluster, tmp_path_factory: Any) -> Any:
    from sweeps.data.sharding import make_shards
    from sweeps.slots.setup import SlotSetup

    listing = planted.listing()
    shards = make_shards(planted, ["appearance"], listing)
    disturbed: Any = Disturbed(shards, tmp_path_factory.mktemp("pids"))
    return SlotSetup(disturbed, listing, divide(listing, 0.5, 0), threads=1)


@pytest.fixture(scope="module")
def alone(setup: Any) -> dict[str, list[Any]]:
    """What a slot of one process has to say, before the group holds all CPUs."""
    import ray

    from sweeps.slots.start import slot_starter

    slot = slot_starter("alone", ResourcesSection())(0)
    ray.get(slot.ready.remote([ray.put(setup)]))
    jobs = [a_job(encoder, f"encoder={encoder}") for encoder in ENCODERS]
    slow = a_slow_job("slow", "features=[appearance]", "training.epochs=3")
    found = {job.name: list(stream(slot, job)) for job in [*jobs, slow]}
    ray.kill(slot)
    return found


@pytest.fixture(scope="module")
def groups(connected: Cluster, setup: Any, alone: Any) -> Iterator[list[Group]]:
    """Return the groups that tests of this module started, at most the last of them open."""
    started: list[Group] = []
    yield started
    for group in started:
        group.close()


@pytest.fixture
def group(groups: list[Group], connected: Cluster, setup: Any) -> Group:
    """Return the open group, or a new one."""
    import ray

    from sweeps.slots.pool import SlotPool
    from sweeps.slots.start import slot_starter

    if groups and "GroupSlot" not in actors(connected.dashboard):
        groups[-1].close()
    if not groups or groups[-1].closed:
        resources = ResourcesSection(workers_per_trial=WORKERS)
        pool = SlotPool(slot_starter("grouped", resources), 1, resources)
        groups.append(Group(pool, connected, setup.shards.pids))
        pool.open(ray.put(setup))
        wait_until(lambda: pool.take() == 0, START_SECONDS)
    return groups[-1]


def epochs_of(events: list[Any]) -> list[int]:
    return [event.result["epoch"] for event in events if isinstance(event, Epoch)]


def assert_same(found: list[Any], expected: list[Any]) -> None:
    """The same epochs and the same end, but for rounding."""
    found = [event for event in found if not isinstance(event, Begin)]
    assert epochs_of(found) == epochs_of(expected)
    for epoch, other in zip(found[:-1], expected[:-1], strict=True):
        for key in ("losses", "scores"):
            assert epoch.result[key] == pytest.approx(other.result[key], abs=1e-5)
        for key in ("best_epochs", "frames"):
            assert epoch.result[key] == other.result[key]
    assert found[-1].state == expected[-1].state == "complete"
    np.testing.assert_array_equal(found[-1].rows, expected[-1].rows)
    np.testing.assert_allclose(found[-1].outputs, expected[-1].outputs, atol=1e-5)


def why_failed(events: Iterator[Event]) -> TrialFailed:
    """What a job says that fails once all its events have been taken."""
    with pytest.raises(RayTaskError) as failed:
        list(events)
    cause = failed.value.cause
    assert isinstance(cause, TrialFailed)
    return cause


def test_trial_after_trial_in_the_same_workers_as_in_one_process(group, alone):
    pids = []
    for encoder in ENCODERS:
        found = list(group.events(a_job(f"group {encoder}", f"encoder={encoder}")))
        assert isinstance(found[0], Begin)
        assert found[0].restarts == 0
        assert found[0].placement_group in placement_groups(group.cluster.dashboard)
        assert_same(found, alone[encoder])
        pids.append(sorted(actors(group.cluster.dashboard)["RayTrainWorker"]))
    assert pids == [sorted(group.pids())] * 3
    assert len(set(pids[0])) == WORKERS


def test_a_pruned_trial_ends_at_its_rung_with_predictions(group, alone):
    job = a_job("pruned", rungs=frozenset({1, 3}))
    found = []
    for event in group.events(job):
        found.append(event)
        if isinstance(event, Epoch):
            group.slot.decide.remote(job.name, event.result["epoch"], event.result["epoch"] == 3)
    assert epochs_of(found) == [1, 2, 3]
    assert found[-1].state == "pruned"
    assert np.isfinite(found[-1].outputs).all()
    assert len(found[-1].rows) == len(alone["gru"][-1].rows)


def test_an_error_that_all_workers_meet_fails_the_trial_alone(group):
    list(group.events(a_job("before", "training.epochs=1")))
    pids = group.pids()
    diverging = a_job("diverging", "optim.lr=1e30", "optim.gradient_clip=0")
    failed = why_failed(group.events(diverging))
    assert failed.reason.startswith("TrainingError: the loss of ")
    assert "in _check_finite" in failed.trace
    after = list(group.events(a_job("after", "features=[other]", "training.epochs=1")))
    assert epochs_of(after) == [1]
    assert group.pids() == pids


def test_an_error_of_one_worker_fails_the_trial_with_its_own_words(group, alone):
    """The other one only sees that a peer is gone. The group is started anew."""
    list(group.events(a_job("unbroken", "training.epochs=1")))
    before = group.pids()
    failed = why_failed(group.events(a_job("broken", "features=[broken]", restarts=3)))
    assert failed.reason == "ValueError: rows that only rank 1 reads"
    assert "in __getitem__" in failed.trace
    assert_same(list(group.events(a_job("next"))), alone["gru"])
    assert not set(group.pids()) & set(before)


def test_a_worker_killed_in_mid_epoch_costs_no_epoch(group, alone):
    job = a_slow_job("killed", "training.epochs=3", rungs=frozenset({1}), restarts=1)
    found = []
    for event in group.events(job):
        found.append(event)
        if isinstance(event, Epoch) and event.result["epoch"] == 1:
            with group.mid_epoch() as wait_held:
                group.slot.decide.remote(job.name, 1, False)
                wait_held()
                group.kill(rank=1)
    begun = [found.index(event) for event in found if isinstance(event, Begin)]
    assert begun == [0, 2]
    assert found[2].restarts == 1
    assert epochs_of(found) == [1, 2, 3]
    assert_same(found, alone["slow"])


def test_killed_while_they_wait_for_a_decision_they_wait_for_it_again_and_die_once_too_often(
    group,
):
    job = a_slow_job("waiting", rungs=frozenset({1, 2}), restarts=1)
    events = group.events(job)
    first, epoch = next(events), next(events)
    assert isinstance(first, Begin)
    assert isinstance(epoch, Epoch)
    time.sleep(ASKED_SECONDS)
    group.kill(rank=0)
    again = next(events)
    assert isinstance(again, Begin)
    assert again.restarts == 1
    group.slot.decide.remote(job.name, 1, False)
    second = next(events)
    assert isinstance(second, Epoch)
    assert second.result["epoch"] == 2

    with group.mid_epoch() as wait_held:
        group.slot.decide.remote(job.name, 2, False)
        wait_held()
        group.kill(rank=0)
    failed = why_failed(events)
    assert failed.reason.startswith("its workers died 2 times: no restart is left")
    after = list(group.events(a_job("after", "training.epochs=1")))
    assert epochs_of(after) == [1]


def test_a_slot_that_is_killed_leaves_nothing_and_another_one_trains(group, alone):
    import ray

    dashboard = group.cluster.dashboard
    events = group.events(a_slow_job("lost", "training.epochs=50"))
    assert isinstance(next(events), Begin)
    assert isinstance(next(events), Epoch)
    running = actors(dashboard)
    assert {"GroupSlot", "TrainController", "RayTrainWorker"} <= set(running)
    # Ray's own cleaner would outlive what it watches.
    assert "PlacementGroupCleaner" not in running
    (slot,) = running["GroupSlot"]
    (placed,) = placement_groups(dashboard)
    psutil.Process(slot).kill()
    with pytest.raises(ray.exceptions.RayActorError):
        list(events)
    pids = [pid for found in running.values() for pid in found]
    wait_until(lambda: not alive(pids), END_SECONDS, lambda: alive(pids))
    assert actors(dashboard) == {}
    # What the workers held is not free until the pool sees to it.
    assert placement_groups(dashboard) == [placed]
    group.pool.lose(0)
    wait_until(lambda: placed not in placement_groups(dashboard), END_SECONDS)
    wait_until(lambda: group.pool.take() == 0, START_SECONDS)
    assert_same(list(group.events(a_job("another"))), alone["gru"])


def test_a_second_group_finds_no_place_says_so_and_leaves_no_claim(group, setup):
    import ray

    from sweeps.slots.pool import SlotPool
    from sweeps.slots.start import slot_starter

    dashboard = group.cluster.dashboard
    held = placement_groups(dashboard)
    cpus = int(group.cluster.nodes[0][0])
    resources = ResourcesSection(
        workers_per_trial=2, cpus_per_worker=cpus, start_timeout_minutes=0.05
    )
    said: list[str] = []
    pool = SlotPool(slot_starter("second", resources), 1, resources, said.append)
    pool.open(ray.put(setup))
    wait_until(lambda: pool.take() is None and pool.gone, EVENT_SECONDS, lambda: said)
    *waiting, line = said
    free = cpus - WORKERS
    assert line == (
        f"slot 0 waits for 2 x ({cpus} CPUs); free in the cluster: {free} of {cpus} CPUs "
        "(see `ray status`): given up after 0.05 minutes"
    )
    assert set(waiting) <= {line.removesuffix(": given up after 0.05 minutes")}
    wait_until(
        lambda: placement_groups(dashboard) == held,
        END_SECONDS,
        lambda: placement_groups(dashboard),
    )
    wait_until(
        lambda: len(actors(dashboard)["GroupSlot"]) == 1,
        END_SECONDS,
        lambda: actors(dashboard),
    )
    pool.close()


def test_a_stop_ends_the_epoch_or_comes_after_it_and_closing_leaves_nothing(group):
    import ray

    job = a_slow_job("stopped after", "training.epochs=50", rungs=frozenset({1}))
    events = group.events(job)
    found = [next(events), next(events)]
    with group.mid_epoch() as wait_held:
        group.slot.decide.remote(job.name, 1, False)
        wait_held()
        group.stop(Stop.AFTER_EPOCH)
    found += list(events)
    assert epochs_of(found) == [1, 2]
    assert isinstance(found[-1], End)
    assert found[-1].state == "interrupted"

    # A stop stands: what comes next is stopped too, and now at once.
    events = group.events(a_slow_job("stopped now", "training.epochs=50"))
    with group.mid_epoch() as wait_held:
        assert isinstance(next(events), Begin)
        wait_held()
        group.stop(Stop.NOW)
    (end,) = events
    assert isinstance(end, End)
    assert (end.state, len(end.rows)) == ("interrupted", 0)

    running = actors(group.cluster.dashboard)
    pids = [pid for found in running.values() for pid in found]
    assert set(group.pids()) <= set(pids)
    group.close()
    dashboard = group.cluster.dashboard
    assert placement_groups(dashboard) == []
    wait_until(lambda: not actors(dashboard), END_SECONDS, lambda: actors(dashboard))
    wait_until(lambda: not alive(pids), END_SECONDS, lambda: alive(pids))

    def free() -> Any:
        return ray.available_resources().get("CPU"), ray.cluster_resources()["CPU"]

    wait_until(lambda: free()[0] == free()[1], END_SECONDS, free)
