"""The desk of a group slot: who is handed what, what is left of it, and when it is over."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sweeps.records.messages import Begin, End, Epoch, Event, Job, SlotLost, TrialFailed
from sweeps.slots.mailbox import HOME, Desk, Handed

LONG = 10.0
END = End("complete", np.empty(0, int), np.empty((0, 0), np.float32))


def a_job(**fields: Any) -> Job:
    return Job("demo/0001 gru", {}, **fields)


def an_epoch(epoch: int, best: int | None = None, again: bool = False) -> Epoch:
    """One whose best epoch so far is ``best`` (this one, by default); told before, if ``again``."""
    best = epoch if best is None else best
    result = {"epoch": epoch, "best_epochs": {"valence": best}}
    if again:
        return Epoch(result, None, None)
    weights = f"weights {epoch}".encode() if best == epoch else None
    return Epoch(result, f"checkpoint {epoch}".encode(), weights)


class Slot:
    """The slot's side, in a thread of its own as in the actor."""

    def __init__(self, desk: Desk, job: Job) -> None:
        self.events: list[Event] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._take, args=(desk.events(job),), daemon=True)
        self._thread.start()

    def _take(self, events: Iterator[Event]) -> None:
        try:
            for event in events:
                self.events.append(event)
        except (TrialFailed, SlotLost) as error:
            self.error = error

    def ended(self) -> "Slot":
        self._thread.join(LONG / 2)
        assert not self._thread.is_alive(), self.events
        return self


@pytest.fixture
def desk() -> Desk:
    return Desk()


def taken(desk: Desk, group: str = "group") -> Handed:
    handed = desk.take(group, LONG)
    assert isinstance(handed, Handed)
    desk.begin(handed.number)
    return handed


def test_a_job_is_handed_out_and_its_events_come_back_in_order(desk):
    job = a_job(rungs=frozenset({2}))
    slot = Slot(desk, job)
    handed = taken(desk)
    assert handed.job == job
    for event in (an_epoch(1), an_epoch(2), END):
        desk.put(handed.number, event)
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1), an_epoch(2), END]
    assert slot.error is None


def test_workers_may_come_before_a_job_or_go_without(desk):
    assert desk.take("group", 0.01) is None
    handed: list[Any] = []
    asking = threading.Thread(target=lambda: handed.append(desk.take("group", LONG)))
    asking.start()
    slot = Slot(desk, a_job())
    asking.join(LONG / 2)
    desk.put(handed[0].number, END)
    assert slot.ended().events[-1] is END
    # It is over: nobody is handed it again.
    assert desk.take("group", 0.01) is None


def test_job_after_job(desk):
    for name in ("demo/0001", "demo/0002"):
        slot = Slot(desk, Job(name, {}))
        handed = taken(desk)
        assert handed.job.name == name
        desk.put(handed.number, END)
        assert slot.ended().events == [Begin(0, "group"), END]


def test_workers_that_come_after_dead_ones_are_handed_what_is_left(desk):
    """Checkpoint and weights of the last epoch that came, whoever saw it first."""
    job = a_job(rungs=frozenset({3}), restarts=3, checkpoint=b"old", weights={1: b"1", 2: b"2"})
    Slot(desk, job)
    first = taken(desk, "one")
    desk.put(first.number, an_epoch(1, again=True))
    left = taken(desk, "two").job
    assert (left.reported, left.undecided, left.checkpoint) == (1, False, b"old")
    assert left.weights == {1: b"1", 2: b"2"}  # that of epoch 2 is still to be told

    desk.put(2, an_epoch(2, again=True))
    desk.put(2, an_epoch(3))
    left = taken(desk, "three").job
    assert (left.reported, left.undecided, left.checkpoint) == (3, True, b"checkpoint 3")
    assert left.weights == {3: b"weights 3"}

    desk.put(3, an_epoch(4, best=3))
    left = taken(desk, "four").job
    assert (left.reported, left.undecided, left.checkpoint) == (4, False, b"checkpoint 4")
    assert left.weights == {3: b"weights 3"}
    assert left.rungs == job.rungs
    assert left.config == job.config


def test_each_pick_up_is_told_with_where_the_workers_are(desk):
    slot = Slot(desk, a_job(restarts=1))
    taken(desk, "one")
    desk.put(taken(desk, "two").number, END)
    assert slot.ended().events == [Begin(0, "one"), Begin(1, "two"), END]


@pytest.mark.parametrize(("restarts", "died"), [(0, "once"), (2, "3 times")])
def test_workers_that_die_too_often_fail_the_trial_and_the_next_one_is_handed_out(
    desk, restarts, died
):
    slot = Slot(desk, a_job(restarts=restarts))
    for _ in range(restarts + 1):
        taken(desk)
    assert desk.take("group", LONG) is None
    assert len(slot.ended().events) == restarts + 1
    assert isinstance(slot.error, TrialFailed)
    assert slot.error.reason == f"its workers died {died}: no restart is left"
    # Deaths are counted anew for each job.
    after = Slot(desk, a_job(restarts=0))
    desk.put(taken(desk).number, END)
    assert after.ended().events == [Begin(0, "group"), END]


def test_what_comes_late_from_workers_thought_dead_is_dropped(desk):
    slot = Slot(desk, a_job(restarts=1))
    old = taken(desk).number
    new = taken(desk).number
    desk.put(old, an_epoch(1))
    desk.put(old, END)
    desk.fail(old, TrialFailed("old", ""), own=True)
    desk.put(new, an_epoch(1))
    desk.put(new, END)
    assert slot.ended().events == [Begin(0, "group"), Begin(1, "group"), an_epoch(1), END]
    assert slot.error is None
    # Also when nothing, or the next job, lies here.
    after = Slot(desk, a_job())
    desk.fail(new, TrialFailed("late", ""), own=True)
    desk.put(new, END)
    desk.put(taken(desk).number, END)
    assert after.ended().events == [Begin(0, "group"), END]


def test_the_first_word_on_what_broke_counts(desk):
    slot = Slot(desk, a_job())
    number = taken(desk).number
    desk.put(number, an_epoch(1))
    desk.fail(number, TrialFailed("ValueError: rank 1", "its trace"), own=True)
    desk.fail(number, TrialFailed("TimeoutError: rank 0", "another"), own=True)
    desk.put(number, an_epoch(2))
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1)]
    assert isinstance(slot.error, TrialFailed)
    assert (slot.error.reason, slot.error.trace) == ("ValueError: rank 1", "its trace")
    assert desk.take("group", 0.01) is None


def test_a_call_that_dead_workers_left_behind_takes_nothing(desk):
    left: list[Any] = []
    stale = threading.Thread(target=lambda: left.append(desk.take("old", LONG)))
    stale.start()
    while desk._takers < 1:
        pass
    # At once: the next workers ask, and a job comes.
    with desk._changed:
        assert desk.take("new", 0) is None
        desk._job = a_job(restarts=1)
    stale.join(LONG / 2)
    assert left == [None]
    assert taken(desk, "new").number == 1


def test_what_dead_workers_took_and_did_not_begin_is_no_death(desk):
    """Their call was left behind, and answered when the next job came."""
    slot = Slot(desk, a_job(restarts=0))
    assert isinstance(desk.take("old", LONG), Handed)
    handed = taken(desk, "new")
    desk.begin(handed.number - 1)
    desk.put(handed.number, END)
    assert slot.ended().events == [Begin(0, "new"), END]


def test_what_the_last_one_alive_said_is_told_when_no_restart_is_left(desk):
    """It is no failure of the job, as far as anybody can tell, but all that is known."""
    slot = Slot(desk, a_job(restarts=0))
    number = taken(desk).number
    desk.fail(number, TrialFailed("DistBackendError: no NCCL", "its trace"), own=False)
    desk.put(number, an_epoch(1))
    assert desk.take("group", LONG) is None
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1)]
    assert isinstance(slot.error, TrialFailed)
    assert slot.error.reason.endswith("the last one alive: DistBackendError: no NCCL")
    assert slot.error.trace == "its trace"


def test_closed_it_sends_all_home_that_ask(desk):
    waiting: list[Any] = []
    asking = threading.Thread(target=lambda: waiting.append(desk.take("group", LONG)))
    asking.start()
    desk.close()
    asking.join(LONG / 2)
    assert waiting == [HOME]
    assert desk.take("group", LONG) == HOME


def test_it_is_ready_once_workers_have_asked(desk):
    ready: list[str] = []
    waiting = threading.Thread(target=lambda: ready.append(desk.ready()))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    desk.take("group", 0)
    waiting.join(LONG / 2)
    assert ready == ["group"]


def test_without_workers_no_job_is_waited_for(desk):
    slot = Slot(desk, a_job(restarts=1))
    desk.put(taken(desk).number, an_epoch(1))
    desk.lose("its worker group ended: no such file")
    # What came before is not lost with them.
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1)]
    assert isinstance(slot.error, SlotLost)
    assert str(slot.error) == "its worker group ended: no such file"
    after = Slot(desk, a_job()).ended()
    assert isinstance(after.error, SlotLost)
    with pytest.raises(SlotLost, match="no such file"):
        desk.ready()
