"""The slots of a sweep: up or waiting, handed out, replaced, given up, closed."""

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
    """A method of an actor, and what it has been called with; its answer comes when told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answer: Any = None
        self.done = False

    def remote(self, *arguments: Any) -> "Call":
        self.calls.append(arguments)
        return self

    def says(self, answer: Any) -> None:
        self.answer, self.done = answer, True


class Actor:
    """A slot's actor."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ready, self.stop, self.close = Call(), Call(), Call()
        self.close.says(None)


class Cluster:
    """As much of Ray as the pool uses."""

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
def said() -> list[str]:
    return []


def a_pool(cluster: Cluster, said: list[str], number: int = 2, **resources: Any) -> SlotPool:
    pool = SlotPool(cluster.start, number, ResourcesSection(**resources), said.append)
    pool.open(SETUP)
    return pool


def up(cluster: Cluster, *slots: int) -> None:
    for slot in slots:
        cluster.actors[slot].ready.says(GROUPS[slot])


def test_slots_start_before_there_is_a_setup_and_are_asked_with_it(cluster, said):
    pool = SlotPool(cluster.start, 2, ResourcesSection(), said.append)
    assert [actor.ready.calls for actor in cluster.actors] == [[], []]
    assert pool.take() is None
    cluster.seconds += 3600  # reading takes as long as it takes
    pool.open(SETUP)
    assert [actor.ready.calls for actor in cluster.actors] == [[([SETUP],)]] * 2
    assert pool.take() is None
    assert not pool.gone
    up(cluster, 0)
    assert pool.take() == 0


def test_slots_are_handed_out_once_they_are_up_and_again_when_free(cluster, said):
    pool = a_pool(cluster, said)
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
    assert said == []
    assert {timeout for _, timeout in cluster.waited} == {0}  # nothing here waits


def test_slots_that_wait_say_why_now_and_then(cluster, said):
    pool = a_pool(cluster, said, 2, workers_per_trial=2, gpus_per_worker=1)
    pool.take()
    assert said == []
    for _ in range(2):
        cluster.seconds += SAY_EVERY_SECONDS
        pool.take()
        pool.take()
    line = (
        "slot 0, 1 waits for 2 x (1 CPUs and 1 GPUs); "
        "free in the cluster: 1 of 2 CPUs, 0 of 1 GPUs (see `ray status`)"
    )
    assert said == [line] * 2
    up(cluster, 0, 1)
    cluster.seconds += SAY_EVERY_SECONDS
    assert pool.take() == 0
    assert said == [line] * 2


def test_a_slot_that_waits_too_long_is_given_up(cluster, said):
    pool = a_pool(cluster, said, 2, start_timeout_minutes=0.25)
    up(cluster, 1)
    cluster.seconds += 16
    assert pool.take() == 1
    assert cluster.killed == [cluster.actors[0]]
    (line,) = said
    assert line == (
        "slot 0 waits for 1 x (1 CPUs); free in the cluster: 1 of 2 CPUs (see `ray status`): "
        "given up after 0.25 minutes"
    )
    assert not pool.gone  # one is left
    assert len(cluster.actors) == 2


@pytest.mark.parametrize("answers", [True, False])
def test_a_group_gives_its_place_up_by_itself_or_is_given_up_a_little_later(cluster, said, answers):
    """Killed while it still wants its place, it would leave a claim that nobody knows of."""
    pool = a_pool(cluster, said, 1, workers_per_trial=2, start_timeout_minutes=0.25)
    cluster.seconds += 16
    assert pool.take() is None
    assert not pool.gone
    if answers:
        lost = SlotLost("its worker group ended: ControllerError")
        cluster.actors[0].ready.says(RayTaskError("ready", "a\ntrace", lost))
    else:
        cluster.seconds += GRACE_SECONDS
    assert pool.take() is None
    assert pool.gone
    assert said == [
        "slot 0 waits for 2 x (1 CPUs); free in the cluster: 1 of 2 CPUs (see `ray status`): "
        "given up after 0.25 minutes"
    ]
    assert cluster.killed == cluster.actors


def test_without_any_slot_the_pool_is_gone(cluster, said):
    pool = a_pool(cluster, said, 1)
    cluster.actors[0].ready.says(RayTaskError("ready", "a\ntrace", SlotLost("no such image")))
    assert not pool.gone
    assert pool.take() is None
    assert pool.gone
    # One sentence, without the trace of Ray's side.
    assert pool.gone_reason == "slot 0 did not start: SlotLost: no such image"
    assert said == [pool.gone_reason]
    assert cluster.killed == cluster.actors


def test_a_lost_slot_is_replaced_and_what_its_workers_held_is_free(cluster, said):
    pool = a_pool(cluster, said)
    up(cluster, 0, 1)
    assert (pool.take(), pool.take()) == (0, 1)
    pool.placed(1, GROUPS[2])  # its workers died and came again elsewhere
    pool.lose(1)
    assert cluster.killed == [cluster.actors[1]]
    assert cluster.removed == [GROUPS[2]]
    assert pool.take() is None
    new = cluster.actors[2]
    assert new.number == 1
    new.ready.says("")
    assert pool.take() == 1
    assert pool.actor(1) is new
    assert new.ready.calls == [([SETUP],)]
    # One of a single process is in no placement group.
    pool.lose(1)
    assert cluster.removed == [GROUPS[2]]


def test_a_lost_slot_is_not_replaced_when_nothing_more_is_taken_up(cluster, said):
    pool = a_pool(cluster, said, 1)
    up(cluster, 0)
    pool.take()
    pool.lose(0, replace=False)
    assert cluster.killed == cluster.actors
    assert cluster.removed == [GROUPS[0]]
    assert pool.gone


def test_a_stop_reaches_those_that_still_wait(cluster, said):
    """They may be handed a job that was on its way."""
    pool = a_pool(cluster, said)
    up(cluster, 0)
    pool.take()
    pool.stop(Stop.AFTER_EPOCH)
    assert [actor.stop.calls for actor in cluster.actors] == [[(Stop.AFTER_EPOCH,)]] * 2


def test_closing_lets_workers_go_home_and_then_ends_every_slot(cluster, said):
    pool = a_pool(cluster, said, 3)
    up(cluster, 0, 1)
    pool.take()
    cluster.actors[1].close.done = False  # one that does not answer is ended all the same
    pool.close()
    assert [actor.stop.calls for actor in cluster.actors] == [[(Stop.NOW,)]] * 3
    assert [len(actor.close.calls) for actor in cluster.actors] == [1, 1, 0]
    assert cluster.waited[-1] == (2, module.CLOSE_SECONDS)
    assert set(cluster.killed) == set(cluster.actors)
    assert set(cluster.removed) == set(GROUPS[:2])
    assert pool.gone
    assert pool.take() is None
