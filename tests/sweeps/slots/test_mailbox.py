"""The mailbox of a group slot: who is handed what, what is left of it, and when it is over."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sweeps.records.messages import Begin, End, Epoch, Event, Job, SlotLost, TrialFailed
from sweeps.slots.mailbox import SHUTDOWN, Assignment, Mailbox

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

    def __init__(self, mailbox: Mailbox, job: Job) -> None:
        self.events: list[Event] = []
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._take, args=(mailbox.events(job),), daemon=True)
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
def mailbox() -> Mailbox:
    return Mailbox()


def taken(mailbox: Mailbox, group: str = "group") -> Assignment:
    handed = mailbox.take(group, LONG)
    assert isinstance(handed, Assignment)
    mailbox.begin(handed.number)
    return handed


def test_a_job_is_handed_out_and_its_events_come_back_in_order(mailbox):
    job = a_job(rungs=frozenset({2}))
    slot = Slot(mailbox, job)
    handed = taken(mailbox)
    assert handed.job == job
    for event in (an_epoch(1), an_epoch(2), END):
        mailbox.put(handed.number, event)
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1), an_epoch(2), END]
    assert slot.error is None


def test_workers_may_come_before_a_job_or_go_without(mailbox):
    assert mailbox.take("group", 0.01) is None
    handed: list[Any] = []
    asking = threading.Thread(target=lambda: handed.append(mailbox.take("group", LONG)))
    asking.start()
    slot = Slot(mailbox, a_job())
    asking.join(LONG / 2)
    mailbox.put(handed[0].number, END)
    assert slot.ended().events[-1] is END
    # It is over: nobody is handed it again.
    assert mailbox.take("group", 0.01) is None


def test_job_after_job(mailbox):
    for name in ("demo/0001", "demo/0002"):
        slot = Slot(mailbox, Job(name, {}))
        handed = taken(mailbox)
        assert handed.job.name == name
        mailbox.put(handed.number, END)
        assert slot.ended().events == [Begin(0, "group"), END]


def test_workers_that_come_after_dead_ones_are_handed_what_is_left(mailbox):
    """Checkpoint and weights of the last epoch that came, whoever saw it first."""
    job = a_job(rungs=frozenset({3}), restarts=3, checkpoint=b"old", weights={1: b"1", 2: b"2"})
    Slot(mailbox, job)
    first = taken(mailbox, "one")
    mailbox.put(first.number, an_epoch(1, again=True))
    left = taken(mailbox, "two").job
    assert (left.reported, left.undecided, left.checkpoint) == (1, False, b"old")
    assert left.weights == {1: b"1", 2: b"2"}  # that of epoch 2 is still to be told

    mailbox.put(2, an_epoch(2, again=True))
    mailbox.put(2, an_epoch(3))
    left = taken(mailbox, "three").job
    assert (left.reported, left.undecided, left.checkpoint) == (3, True, b"checkpoint 3")
    assert left.weights == {3: b"weights 3"}

    mailbox.put(3, an_epoch(4, best=3))
    left = taken(mailbox, "four").job
    assert (left.reported, left.undecided, left.checkpoint) == (4, False, b"checkpoint 4")
    assert left.weights == {3: b"weights 3"}
    assert left.rungs == job.rungs
    assert left.config == job.config


def test_each_pick_up_is_told_with_where_the_workers_are(mailbox):
    slot = Slot(mailbox, a_job(restarts=1))
    taken(mailbox, "one")
    mailbox.put(taken(mailbox, "two").number, END)
    assert slot.ended().events == [Begin(0, "one"), Begin(1, "two"), END]


@pytest.mark.parametrize(("restarts", "died"), [(0, "once"), (2, "3 times")])
def test_workers_that_die_too_often_fail_the_trial_and_the_next_one_is_handed_out(
    mailbox, restarts, died
):
    slot = Slot(mailbox, a_job(restarts=restarts))
    for _ in range(restarts + 1):
        taken(mailbox)
    assert mailbox.take("group", LONG) is None
    assert len(slot.ended().events) == restarts + 1
    assert isinstance(slot.error, TrialFailed)
    assert slot.error.reason == f"its workers died {died}: no restart is left"
    # Deaths are counted anew for each job.
    after = Slot(mailbox, a_job(restarts=0))
    mailbox.put(taken(mailbox).number, END)
    assert after.ended().events == [Begin(0, "group"), END]


def test_what_comes_late_from_workers_thought_dead_is_dropped(mailbox):
    slot = Slot(mailbox, a_job(restarts=1))
    old = taken(mailbox).number
    new = taken(mailbox).number
    mailbox.put(old, an_epoch(1))
    mailbox.put(old, END)
    mailbox.fail(old, TrialFailed("old", ""), own=True)
    mailbox.put(new, an_epoch(1))
    mailbox.put(new, END)
    assert slot.ended().events == [Begin(0, "group"), Begin(1, "group"), an_epoch(1), END]
    assert slot.error is None
    # Also when nothing, or the next job, lies here.
    after = Slot(mailbox, a_job())
    mailbox.fail(new, TrialFailed("late", ""), own=True)
    mailbox.put(new, END)
    mailbox.put(taken(mailbox).number, END)
    assert after.ended().events == [Begin(0, "group"), END]


def test_the_first_word_on_what_broke_counts(mailbox):
    slot = Slot(mailbox, a_job())
    number = taken(mailbox).number
    mailbox.put(number, an_epoch(1))
    mailbox.fail(number, TrialFailed("ValueError: rank 1", "its trace"), own=True)
    mailbox.fail(number, TrialFailed("TimeoutError: rank 0", "another"), own=True)
    mailbox.put(number, an_epoch(2))
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1)]
    assert isinstance(slot.error, TrialFailed)
    assert (slot.error.reason, slot.error.trace) == ("ValueError: rank 1", "its trace")
    assert mailbox.take("group", 0.01) is None


def test_a_call_that_dead_workers_left_behind_takes_nothing(mailbox):
    left: list[Any] = []
    stale = threading.Thread(target=lambda: left.append(mailbox.take("old", LONG)))
    stale.start()
    assert mailbox.ready() == "old"  # the dead workers' call waits
    assert mailbox.take("new", 0) is None
    stale.join(LONG / 2)
    assert left == [None]
    Slot(mailbox, a_job(restarts=1))
    assert taken(mailbox, "new").number == 1


def test_what_dead_workers_took_and_did_not_begin_is_no_death(mailbox):
    """Their call was left behind, and answered when the next job came."""
    slot = Slot(mailbox, a_job(restarts=0))
    assert isinstance(mailbox.take("old", LONG), Assignment)
    handed = taken(mailbox, "new")
    mailbox.begin(handed.number - 1)
    mailbox.put(handed.number, END)
    assert slot.ended().events == [Begin(0, "new"), END]


def test_what_the_last_one_alive_said_is_told_when_no_restart_is_left(mailbox):
    """It is no failure of the job, as far as anybody can tell, but all that is known."""
    slot = Slot(mailbox, a_job(restarts=0))
    number = taken(mailbox).number
    mailbox.fail(number, TrialFailed("DistBackendError: no NCCL", "its trace"), own=False)
    mailbox.put(number, an_epoch(1))
    assert mailbox.take("group", LONG) is None
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1)]
    assert isinstance(slot.error, TrialFailed)
    assert slot.error.reason.endswith("the last one alive: DistBackendError: no NCCL")
    assert slot.error.trace == "its trace"


def test_closed_it_sends_all_home_that_ask(mailbox):
    waiting: list[Any] = []
    asking = threading.Thread(target=lambda: waiting.append(mailbox.take("group", LONG)))
    asking.start()
    mailbox.close()
    asking.join(LONG / 2)
    assert waiting == [SHUTDOWN]
    assert mailbox.take("group", LONG) == SHUTDOWN


def test_it_is_ready_once_workers_have_asked(mailbox):
    ready: list[str] = []
    waiting = threading.Thread(target=lambda: ready.append(mailbox.ready()))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    mailbox.take("group", 0)
    waiting.join(LONG / 2)
    assert ready == ["group"]


def test_without_workers_no_job_is_waited_for(mailbox):
    slot = Slot(mailbox, a_job(restarts=1))
    mailbox.put(taken(mailbox).number, an_epoch(1))
    mailbox.lose("its worker group ended: no such file")
    # What came before is not lost with them.
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1)]
    assert isinstance(slot.error, SlotLost)
    assert str(slot.error) == "its worker group ended: no such file"
    after = Slot(mailbox, a_job()).ended()
    assert isinstance(after.error, SlotLost)
    with pytest.raises(SlotLost, match="no such file"):
        mailbox.ready()
