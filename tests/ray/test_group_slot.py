"""Tests of a slot of two DDP workers: trials, errors, killed workers, requests to stop.

The tests share one group of workers, because a group takes half a minute to start. After a test
that closes the group, the next test starts a new one.
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
"""Duration of one read of slow features; a worker makes about 30 reads an epoch."""
WAITING_SECONDS = 0.3
"""Time in which workers that have ended an epoch come to wait for a pruning decision."""
STOP_SECONDS = 2
"""Time in which a request to stop passes from the slot to its workers."""
BROKEN_AFTER_READS = 20


@dataclass(frozen=True)
class Hold:
    """Folder of files that hold workers within an epoch.

    Workers wait while the request file exists. Each waiting worker writes a file of its own.
    """

    folder: Path

    @property
    def request(self) -> Path:
        """Path of the request file."""
        return self.folder / "hold"

    def held(self, rank: int) -> Path:
        """Return the path of the file that a waiting worker writes."""
        return self.folder / f"held.{rank}"

    def wait_while_requested(self) -> None:
        """Block the calling worker until the request file is removed."""
        while self.request.exists():
            self.held(_rank()).touch()
            time.sleep(0.01)


class Block:
    """Rows of features with a fault for the worker that reads them.

    With the kind ``slow`` each read takes time and can be held; with ``broken`` the reads of rank 1
    fail after ``BROKEN_AFTER_READS``.
    """

    def __init__(self, kind: str, rows: np.ndarray, hold: Hold) -> None:
        self.kind, self.rows, self.hold, self.reads = kind, rows, hold, 0

    def __getitem__(self, which: Any) -> np.ndarray:
        self.reads += 1
        if self.kind == "slow":
            time.sleep(SLOW_SECONDS)
        if self.kind == "broken" and _rank() == 1 and self.reads > BROKEN_AFTER_READS:
            raise ValueError(f"rows that only rank {_rank()} reads\nare broken")
        found: np.ndarray = self.rows[which]
        # The single row that is read before the first step, for its type, is not held.
        if self.kind == "slow" and len(found) > 1:
            self.hold.wait_while_requested()
        return found


@dataclass(frozen=True)
class Disturbed:
    """Loader of feature sets that are named after their fault.

    Each worker that loads one writes its process id to a file named after its rank.
    """

    shards: FeatureLoader
    pids: Path

    def load(self, name: str) -> FeatureTable:
        """Return the features of ``appearance`` with the fault ``name``."""
        (self.pids / str(_rank())).write_text(str(os.getpid()))
        table = self.shards.load("appearance")
        blocks: Any = [Block(name, block, Hold(self.pids)) for block in table.blocks]
        return replace(table, blocks=blocks)


def _rank() -> int:
    import torch

    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def small_job(name: str, *overrides: str, **fields: Any) -> Job:
    """Return the job of a small model: four epochs without dropout."""
    small = ("encoder.hidden=8", "encoder.dropout=0", "head=linear", "training.epochs=4")
    config = compose([*small, "optim.batch_videos=4", "sequence.window_frames=32", *overrides])
    return Job(name, config.plain(), **fields)


def slow_job(name: str, *overrides: str, **fields: Any) -> Job:
    """Return a small job that reads slow features in many steps."""
    steps = ("features=[slow]", "optim.batch_videos=2", "sequence.window_frames=16")
    return small_job(name, *steps, *overrides, **fields)


@dataclass
class Group:
    """Slot of DDP workers, with its pool and cluster."""

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
        """Yield the events of a job; tell the pool the placement group, as a sweep does."""
        for event in stream(self.slot, job):
            if isinstance(event, Begin):
                self.pool.placed(0, event.placement_group)
            yield event

    def pids(self) -> list[int]:
        """Return the process ids of the workers of the last trial, by rank."""
        return [int((self.pids_of_ranks / str(rank)).read_text()) for rank in range(WORKERS)]

    def kill(self, rank: int) -> None:
        """Kill a worker with SIGKILL."""
        psutil.Process(self.pids()[rank]).kill()

    @contextmanager
    def mid_epoch(self) -> Iterator[Callable[[], None]]:
        """Hold the workers of a slow job at their next step until the context ends.

        No worker may be in a step when the context begins.

        Yields:
            Function that waits until all workers are held.
        """
        hold = Hold(self.pids_of_ranks)
        held = [hold.held(rank) for rank in range(WORKERS)]
        for file in held:
            file.unlink(missing_ok=True)
        hold.request.touch()
        try:
            yield lambda: wait_until(lambda: all(map(Path.exists, held)), END_SECONDS)
        finally:
            hold.request.unlink()

    def stop(self, when: Stop) -> None:
        """Request a stop and wait until the workers have received the request."""
        import ray

        ray.get(self.slot.stop.remote(when))
        time.sleep(STOP_SECONDS)


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
    """Return the events of reference jobs, by name, trained by a slot of one process.

    They are trained before the group starts, because the group takes all CPUs.
    """
    import ray

    from sweeps.slots.start import slot_starter

    slot = slot_starter("alone", ResourcesSection())(0)
    ray.get(slot.ready.remote([ray.put(setup)]))
    jobs = [small_job(encoder, f"encoder={encoder}") for encoder in ENCODERS]
    slow = slow_job("slow", "features=[appearance]", "training.epochs=3")
    found = {job.name: list(stream(slot, job)) for job in [*jobs, slow]}
    ray.kill(slot)
    return found


@pytest.fixture(scope="module")
def groups(connected: Cluster, setup: Any, alone: Any) -> Iterator[list[Group]]:
    """List of the groups that the tests started; only the last one may be open."""
    started: list[Group] = []
    yield started
    for group in started:
        group.close()


@pytest.fixture
def group(groups: list[Group], connected: Cluster, setup: Any) -> Group:
    """Open group; a new one if there is none."""
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
    """Check that two trials have equal epochs and equal ends, except for rounding."""
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


def failure_of(events: Iterator[Event]) -> TrialFailed:
    """Read all events of a job that fails, and return the failure."""
    with pytest.raises(RayTaskError) as failed:
        list(events)
    cause = failed.value.cause
    assert isinstance(cause, TrialFailed)
    return cause


def test_trials_of_resident_workers_equal_those_of_one_process(group, alone):
    pids = []
    for encoder in ENCODERS:
        found = list(group.events(small_job(f"group {encoder}", f"encoder={encoder}")))
        assert isinstance(found[0], Begin)
        assert found[0].restarts == 0
        assert found[0].placement_group in placement_groups(group.cluster.dashboard)
        assert_same(found, alone[encoder])
        pids.append(sorted(actors(group.cluster.dashboard)["RayTrainWorker"]))
    assert pids == [sorted(group.pids())] * 3
    assert len(set(pids[0])) == WORKERS


def test_a_pruned_trial_ends_at_its_rung_with_predictions(group, alone):
    job = small_job("pruned", rungs=frozenset({1, 3}))
    found = []
    for event in group.events(job):
        found.append(event)
        if isinstance(event, Epoch):
            group.slot.decide.remote(job.name, event.result["epoch"], event.result["epoch"] == 3)
    assert epochs_of(found) == [1, 2, 3]
    assert found[-1].state == "pruned"
    assert np.isfinite(found[-1].outputs).all()
    assert len(found[-1].rows) == len(alone["gru"][-1].rows)


def test_an_error_of_all_workers_fails_the_trial_and_keeps_the_workers(group):
    list(group.events(small_job("before", "training.epochs=1")))
    pids = group.pids()
    diverging = small_job("diverging", "optim.lr=1e30", "optim.gradient_clip=0")
    failed = failure_of(group.events(diverging))
    assert failed.reason.startswith("TrainingError: the loss of ")
    assert "in _check_finite" in failed.trace
    after = list(group.events(small_job("after", "features=[other]", "training.epochs=1")))
    assert epochs_of(after) == [1]
    assert group.pids() == pids


def test_an_error_of_one_worker_is_the_reason_and_restarts_the_group(group, alone):
    """The error of the other worker, a lost connection, is not the reason."""
    list(group.events(small_job("unbroken", "training.epochs=1")))
    before = group.pids()
    failed = failure_of(group.events(small_job("broken", "features=[broken]", restarts=3)))
    assert failed.reason == "ValueError: rows that only rank 1 reads"
    assert "in __getitem__" in failed.trace
    assert_same(list(group.events(small_job("next"))), alone["gru"])
    assert not set(group.pids()) & set(before)


def test_a_worker_killed_within_an_epoch_loses_no_epoch(group, alone):
    job = slow_job("killed", "training.epochs=3", rungs=frozenset({1}), restarts=1)
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


def test_workers_killed_while_they_wait_for_a_decision_restart_until_no_restart_is_left(
    group,
):
    job = slow_job("waiting", rungs=frozenset({1, 2}), restarts=1)
    events = group.events(job)
    first, epoch = next(events), next(events)
    assert isinstance(first, Begin)
    assert isinstance(epoch, Epoch)
    time.sleep(WAITING_SECONDS)
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
    failed = failure_of(events)
    assert failed.reason.startswith("its workers died 2 times: no restart is left")
    after = list(group.events(small_job("after", "training.epochs=1")))
    assert epochs_of(after) == [1]


def test_a_killed_slot_leaves_no_process_and_a_new_slot_trains(group, alone):
    import ray

    dashboard = group.cluster.dashboard
    events = group.events(slow_job("lost", "training.epochs=50"))
    assert isinstance(next(events), Begin)
    assert isinstance(next(events), Epoch)
    running = actors(dashboard)
    assert {"GroupSlot", "TrainController", "RayTrainWorker"} <= set(running)
    # This actor of Ray would remain after the processes that it watches have ended.
    assert "PlacementGroupCleaner" not in running
    (slot,) = running["GroupSlot"]
    (placement_group,) = placement_groups(dashboard)
    psutil.Process(slot).kill()
    with pytest.raises(ray.exceptions.RayActorError):
        list(events)
    pids = [pid for found in running.values() for pid in found]
    wait_until(lambda: not alive(pids), END_SECONDS, lambda: alive(pids))
    assert actors(dashboard) == {}
    # The placement group of the workers remains until the pool removes it.
    assert placement_groups(dashboard) == [placement_group]
    group.pool.lose(0)
    wait_until(lambda: placement_group not in placement_groups(dashboard), END_SECONDS)
    wait_until(lambda: group.pool.take() == 0, START_SECONDS)
    assert_same(list(group.events(small_job("another"))), alone["gru"])


def test_a_second_group_without_free_cpus_is_given_up_and_holds_nothing(group, setup):
    import ray

    from sweeps.slots.pool import SlotPool
    from sweeps.slots.start import slot_starter

    dashboard = group.cluster.dashboard
    before = placement_groups(dashboard)
    cpus = int(group.cluster.nodes[0][0])
    resources = ResourcesSection(
        workers_per_trial=2, cpus_per_worker=cpus, start_timeout_minutes=0.05
    )
    messages: list[str] = []
    pool = SlotPool(slot_starter("second", resources), 1, resources, messages.append)
    pool.open(ray.put(setup))
    wait_until(lambda: pool.take() is None and pool.gone, EVENT_SECONDS, lambda: messages)
    *waiting, line = messages
    free = cpus - WORKERS
    assert line == (
        f"slot 0 waits for 2 x ({cpus} CPUs); free in the cluster: {free} of {cpus} CPUs "
        "(see `ray status`): given up after 0.05 minutes"
    )
    assert set(waiting) <= {line.removesuffix(": given up after 0.05 minutes")}
    wait_until(
        lambda: placement_groups(dashboard) == before,
        END_SECONDS,
        lambda: placement_groups(dashboard),
    )
    wait_until(
        lambda: len(actors(dashboard)["GroupSlot"]) == 1,
        END_SECONDS,
        lambda: actors(dashboard),
    )
    pool.close()


def test_a_stop_acts_after_or_within_the_epoch_and_closing_ends_all_processes(group):
    import ray

    job = slow_job("stopped after", "training.epochs=50", rungs=frozenset({1}))
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

    # A request to stop remains: the next trial is stopped too, within its first epoch.
    events = group.events(slow_job("stopped now", "training.epochs=50"))
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
