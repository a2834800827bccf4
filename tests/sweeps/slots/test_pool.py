"""Pool of slots: starting, taking, releasing, replacing, giving up and closing slots."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import RayTaskError

from sweeps.records.messages import SlotLost
from sweeps.search_file import ResourcesSection
from sweeps.slots import pool as module
from sweeps.slots.control import Stop
from sweeps.slots.pool import GRACE_SECONDS, SAY_EVERY_SECONDS, SlotPool

SETUP = "a reference"
GROUPS = [f"{number:036x}" for number in range(1, 4)]


class Call:
    """Method of an actor that records its calls and returns the answer that a test sets."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answer: Any = None
        self.done = False

    def remote(self, *arguments: Any) -> "Call":
        self.calls.append(arguments)
        return self

    def answer_with(self, answer: Any) -> None:
        self.answer, self.done = answer, True


class Actor:
    """Stand-in for a slot's actor."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ready, self.stop, self.close = Call(), Call(), Call()
        self.close.answer_with(None)


class Cluster:
    """Stand-in for Ray and its clock, with the functions that the pool uses."""

    PlacementGroupID = ray.PlacementGroupID

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self.killed: list[Actor] = []
        self.removed: list[str] = []
        self.waited: list[tuple[int, float]] = []
        self.seconds = 1000.0

    def start(self, number: int) -> Any:
        self.actors.append(Actor(number))
        return self.actors[-1]

    def wait(self, calls: list[Call], num_returns: int = 1, timeout: float = 0) -> Any:
        self.waited.append((num_returns, timeout))
        return [c for c in calls if c.done], [c for c in calls if not c.done]

    def get(self, call: Call) -> Any:
        if isinstance(call.answer, Exception):
            raise call.answer
        return call.answer

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor)

    def remove(self, group: Any) -> None:
        self.removed.append(group.id.hex())

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0, "GPU": 1.0}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(module, "ray", cluster)
    monkeypatch.setattr(module, "remove_placement_group", cluster.remove)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: cluster.seconds))
    return cluster


@pytest.fixture
def messages() -> list[str]:
    return []


def a_pool(cluster: Cluster, messages: list[str], number: int = 2, **resources: Any) -> SlotPool:
    pool = SlotPool(cluster.start, number, ResourcesSection(**resources), messages.append)
    pool.open(SETUP)
    return pool


def up(cluster: Cluster, *slots: int) -> None:
    for slot in slots:
        cluster.actors[slot].ready.answer_with(GROUPS[slot])


def test_slots_start_before_the_setup_is_made_and_get_it_later(cluster, messages):
    pool = SlotPool(cluster.start, 2, ResourcesSection(), messages.append)
    assert [actor.ready.calls for actor in cluster.actors] == [[], []]
    assert pool.take() is None
    cluster.seconds += 3600  # making the setup has no time limit
    pool.open(SETUP)
    assert [actor.ready.calls for actor in cluster.actors] == [[([SETUP],)]] * 2
    assert pool.take() is None
    assert not pool.gone
    up(cluster, 0)
    assert pool.take() == 0


def test_slots_can_be_taken_once_they_are_up_and_again_after_release(cluster, messages):
    pool = a_pool(cluster, messages)
    assert [actor.number for actor in cluster.actors] == [0, 1]
    assert pool.take() is None
    up(cluster, 1)
    assert pool.take() == 1
    assert pool.actor(1) is cluster.actors[1]
    assert pool.take() is None
    up(cluster, 0)
    assert pool.take() == 0
    pool.release(1)
    assert pool.take() == 1
    assert pool.take() is None
    assert not pool.gone
    assert messages == []
    assert {timeout for _, timeout in cluster.waited} == {0}  # no call waits


def test_the_reason_for_waiting_slots_is_printed_at_intervals(cluster, messages):
    pool = a_pool(cluster, messages, 2, workers_per_trial=2, gpus_per_worker=1)
    pool.take()
    assert messages == []
    for _ in range(2):
        cluster.seconds += SAY_EVERY_SECONDS
        pool.take()
        pool.take()
    line = (
        "slot 0, 1 waits for 2 x (1 CPUs and 1 GPUs); "
        "free in the cluster: 1 of 2 CPUs, 0 of 1 GPUs (see `ray status`)"
    )
    assert messages == [line] * 2
    up(cluster, 0, 1)
    cluster.seconds += SAY_EVERY_SECONDS
    assert pool.take() == 0
    assert messages == [line] * 2


def test_a_slot_that_waits_too_long_is_given_up(cluster, messages):
    pool = a_pool(cluster, messages, 2, start_timeout_minutes=0.25)
    up(cluster, 1)
    cluster.seconds += 16
    assert pool.take() == 1
    assert cluster.killed == [cluster.actors[0]]
    (line,) = messages
    assert line == (
        "slot 0 waits for 1 x (1 CPUs); free in the cluster: 1 of 2 CPUs (see `ray status`): "
        "given up after 0.25 minutes"
    )
    assert not pool.gone  # one slot is up
    assert len(cluster.actors) == 2


@pytest.mark.parametrize("answers", [True, False])
def test_a_waiting_group_gives_up_or_is_given_up_after_a_grace_time(cluster, messages, answers):
    """A group that is killed while it waits leaves a placement group that stays reserved."""
    pool = a_pool(cluster, messages, 1, workers_per_trial=2, start_timeout_minutes=0.25)
    cluster.seconds += 16
    assert pool.take() is None
    assert not pool.gone
    if answers:
        lost = SlotLost("its worker group ended: ControllerError")
        cluster.actors[0].ready.answer_with(RayTaskError("ready", "a\ntrace", lost))
    else:
        cluster.seconds += GRACE_SECONDS
    assert pool.take() is None
    assert pool.gone
    assert messages == [
        "slot 0 waits for 2 x (1 CPUs); free in the cluster: 1 of 2 CPUs (see `ray status`): "
        "given up after 0.25 minutes"
    ]
    assert cluster.killed == cluster.actors


def test_a_pool_whose_slots_did_not_start_is_gone(cluster, messages):
    pool = a_pool(cluster, messages, 1)
    cluster.actors[0].ready.answer_with(
        RayTaskError("ready", "a\ntrace", SlotLost("no such image"))
    )
    assert not pool.gone
    assert pool.take() is None
    assert pool.gone
    # The reason is one sentence without Ray's trace.
    assert pool.gone_reason == "slot 0 did not start: SlotLost: no such image"
    assert messages == [pool.gone_reason]
    assert cluster.killed == cluster.actors


def test_a_lost_slot_is_replaced_and_its_placement_group_removed(cluster, messages):
    pool = a_pool(cluster, messages)
    up(cluster, 0, 1)
    assert (pool.take(), pool.take()) == (0, 1)
    pool.placed(1, GROUPS[2])  # its workers died, and new ones are up elsewhere
    pool.lose(1)
    assert cluster.killed == [cluster.actors[1]]
    assert cluster.removed == [GROUPS[2]]
    assert pool.take() is None
    new = cluster.actors[2]
    assert new.number == 1
    new.ready.answer_with("")
    assert pool.take() == 1
    assert pool.actor(1) is new
    assert new.ready.calls == [([SETUP],)]
    # A slot of one process has no placement group.
    pool.lose(1)
    assert cluster.removed == [GROUPS[2]]


def test_a_lost_slot_is_not_replaced_if_the_search_has_stopped(cluster, messages):
    pool = a_pool(cluster, messages, 1)
    up(cluster, 0)
    pool.take()
    pool.lose(0, replace=False)
    assert cluster.killed == cluster.actors
    assert cluster.removed == [GROUPS[0]]
    assert pool.gone


def test_a_stop_request_is_sent_to_starting_slots_too(cluster, messages):
    """A starting slot may get a job that was sent before the stop."""
    pool = a_pool(cluster, messages)
    up(cluster, 0)
    pool.take()
    pool.stop(Stop.AFTER_EPOCH)
    assert [actor.stop.calls for actor in cluster.actors] == [[(Stop.AFTER_EPOCH,)]] * 2


def test_closing_ends_the_workers_and_then_kills_every_slot(cluster, messages):
    pool = a_pool(cluster, messages, 3)
    up(cluster, 0, 1)
    pool.take()
    cluster.actors[1].close.done = False  # a slot that does not answer is killed too
    pool.close()
    assert [actor.stop.calls for actor in cluster.actors] == [[(Stop.NOW,)]] * 3
    assert [len(actor.close.calls) for actor in cluster.actors] == [1, 1, 0]
    assert cluster.waited[-1] == (2, module.CLOSE_SECONDS)
    assert set(cluster.killed) == set(cluster.actors)
    assert set(cluster.removed) == set(GROUPS[:2])
    assert pool.gone
    assert pool.take() is None
