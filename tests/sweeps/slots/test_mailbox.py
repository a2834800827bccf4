"""Mailbox of a group slot: assignments, the remaining part of a job, and the end of a job."""

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


def an_epoch(
    epoch: int, best: int | None = None, again: bool = False, collapsed: bool = False
) -> Epoch:
    """Return the event of an epoch.

    Args:
        epoch: The epoch.
        best: The best epoch so far; this one by default.
        again: True if an earlier worker sent the event with its checkpoint.
        collapsed: True if the only task has collapsed.
    """
    best = epoch if best is None else best
    result = {"epoch": epoch, "best_epochs": {"valence": best}, "collapsed": {"valence": collapsed}}
    if again:
        return Epoch(result, None, None)
    weights = f"weights {epoch}".encode() if best == epoch else None
    return Epoch(result, f"checkpoint {epoch}".encode(), weights)


class Slot:
    """Slot that reads the events of a job in a thread, as the actor does."""

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


def take(mailbox: Mailbox, group: str = "group") -> Assignment:
    assignment = mailbox.take(group, LONG)
    assert isinstance(assignment, Assignment)
    mailbox.begin(assignment.number)
    return assignment


def test_a_job_is_assigned_and_its_events_arrive_in_order(mailbox):
    job = a_job(rungs=frozenset({2}))
    slot = Slot(mailbox, job)
    assignment = take(mailbox)
    assert assignment.job == job
    for event in (an_epoch(1), an_epoch(2), END):
        mailbox.put(assignment.number, event)
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1), an_epoch(2), END]
    assert slot.error is None


def test_workers_can_ask_before_there_is_a_job(mailbox):
    assert mailbox.take("group", 0.01) is None
    assignments: list[Any] = []
    asking = threading.Thread(target=lambda: assignments.append(mailbox.take("group", LONG)))
    asking.start()
    slot = Slot(mailbox, a_job())
    asking.join(LONG / 2)
    mailbox.put(assignments[0].number, END)
    assert slot.ended().events[-1] is END
    # An ended job is not assigned again.
    assert mailbox.take("group", 0.01) is None


def test_jobs_are_assigned_one_after_another(mailbox):
    for name in ("demo/0001", "demo/0002"):
        slot = Slot(mailbox, Job(name, {}))
        assignment = take(mailbox)
        assert assignment.job.name == name
        mailbox.put(assignment.number, END)
        assert slot.ended().events == [Begin(0, "group"), END]


@pytest.mark.parametrize("prunes_collapse", [True, False])
def test_new_workers_wait_for_the_decision_on_a_collapse(mailbox, prunes_collapse):
    """The earlier workers died while they waited for the decision."""
    Slot(mailbox, a_job(prunes_collapse=prunes_collapse, restarts=1))
    mailbox.put(take(mailbox, "one").number, an_epoch(2, collapsed=True))
    remaining = take(mailbox, "two").job
    assert (remaining.reported, remaining.undecided) == (2, prunes_collapse)


def test_new_workers_get_the_remaining_part_of_a_job(mailbox):
    """The job has the checkpoint and weights of the last epoch that any worker sent."""
    job = a_job(rungs=frozenset({3}), restarts=3, checkpoint=b"old", weights={1: b"1", 2: b"2"})
    Slot(mailbox, job)
    first = take(mailbox, "one")
    mailbox.put(first.number, an_epoch(1, again=True))
    remaining = take(mailbox, "two").job
    assert (remaining.reported, remaining.undecided, remaining.checkpoint) == (1, False, b"old")
    assert remaining.weights == {1: b"1", 2: b"2"}  # the event of epoch 2 is still to come

    mailbox.put(2, an_epoch(2, again=True))
    mailbox.put(2, an_epoch(3))
    remaining = take(mailbox, "three").job
    assert (remaining.reported, remaining.undecided) == (3, True)
    assert remaining.checkpoint == b"checkpoint 3"
    assert remaining.weights == {3: b"weights 3"}

    mailbox.put(3, an_epoch(4, best=3))
    remaining = take(mailbox, "four").job
    assert (remaining.reported, remaining.undecided) == (4, False)
    assert remaining.checkpoint == b"checkpoint 4"
    assert remaining.weights == {3: b"weights 3"}
    assert remaining.rungs == job.rungs
    assert remaining.config == job.config


def test_each_begin_event_has_the_placement_group_of_the_workers(mailbox):
    slot = Slot(mailbox, a_job(restarts=1))
    take(mailbox, "one")
    mailbox.put(take(mailbox, "two").number, END)
    assert slot.ended().events == [Begin(0, "one"), Begin(1, "two"), END]


@pytest.mark.parametrize(("restarts", "died"), [(0, "once"), (2, "3 times")])
def test_workers_that_die_too_often_fail_their_job_but_not_the_next_one(mailbox, restarts, died):
    slot = Slot(mailbox, a_job(restarts=restarts))
    for _ in range(restarts + 1):
        take(mailbox)
    assert mailbox.take("group", LONG) is None
    assert len(slot.ended().events) == restarts + 1
    assert isinstance(slot.error, TrialFailed)
    assert slot.error.reason == f"its workers died {died}: no restart is left"
    # Deaths are counted for each job alone.
    after = Slot(mailbox, a_job(restarts=0))
    mailbox.put(take(mailbox).number, END)
    assert after.ended().events == [Begin(0, "group"), END]


def test_late_events_of_replaced_workers_are_dropped(mailbox):
    slot = Slot(mailbox, a_job(restarts=1))
    old = take(mailbox).number
    new = take(mailbox).number
    mailbox.put(old, an_epoch(1))
    mailbox.put(old, END)
    mailbox.fail(old, TrialFailed("old", ""), own=True)
    mailbox.put(new, an_epoch(1))
    mailbox.put(new, END)
    assert slot.ended().events == [Begin(0, "group"), Begin(1, "group"), an_epoch(1), END]
    assert slot.error is None
    # Also when the mailbox is empty or holds the next job.
    after = Slot(mailbox, a_job())
    mailbox.fail(new, TrialFailed("late", ""), own=True)
    mailbox.put(new, END)
    mailbox.put(take(mailbox).number, END)
    assert after.ended().events == [Begin(0, "group"), END]


def test_the_first_error_of_a_job_counts(mailbox):
    slot = Slot(mailbox, a_job())
    number = take(mailbox).number
    mailbox.put(number, an_epoch(1))
    mailbox.fail(number, TrialFailed("ValueError: rank 1", "its trace"), own=True)
    mailbox.fail(number, TrialFailed("TimeoutError: rank 0", "another"), own=True)
    mailbox.put(number, an_epoch(2))
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1)]
    assert isinstance(slot.error, TrialFailed)
    assert (slot.error.reason, slot.error.trace) == ("ValueError: rank 1", "its trace")
    assert mailbox.take("group", 0.01) is None


def test_an_open_call_of_dead_workers_gets_no_job(mailbox):
    answers: list[Any] = []
    stale = threading.Thread(target=lambda: answers.append(mailbox.take("old", LONG)))
    stale.start()
    assert mailbox.ready() == "old"  # the call of dead workers waits
    assert mailbox.take("new", 0) is None
    stale.join(LONG / 2)
    assert answers == [None]
    Slot(mailbox, a_job(restarts=1))
    assert take(mailbox, "new").number == 1


def test_a_job_that_dead_workers_did_not_begin_counts_no_death(mailbox):
    """A call that dead workers left open is answered when the next job comes."""
    slot = Slot(mailbox, a_job(restarts=0))
    assert isinstance(mailbox.take("old", LONG), Assignment)
    assignment = take(mailbox, "new")
    mailbox.begin(assignment.number - 1)
    mailbox.put(assignment.number, END)
    assert slot.ended().events == [Begin(0, "new"), END]


def test_a_peer_failure_is_reported_when_no_restart_is_left(mailbox):
    """A peer failure is not the cause of the deaths, but it is all that is known."""
    slot = Slot(mailbox, a_job(restarts=0))
    number = take(mailbox).number
    mailbox.fail(number, TrialFailed("DistBackendError: no NCCL", "its trace"), own=False)
    mailbox.put(number, an_epoch(1))
    assert mailbox.take("group", LONG) is None
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1)]
    assert isinstance(slot.error, TrialFailed)
    assert slot.error.reason.endswith("the last one alive: DistBackendError: no NCCL")
    assert slot.error.trace == "its trace"


def test_a_closed_mailbox_shuts_down_workers_that_ask(mailbox):
    waiting: list[Any] = []
    asking = threading.Thread(target=lambda: waiting.append(mailbox.take("group", LONG)))
    asking.start()
    mailbox.close()
    asking.join(LONG / 2)
    assert waiting == [SHUTDOWN]
    assert mailbox.take("group", LONG) == SHUTDOWN


def test_a_mailbox_is_ready_once_workers_have_asked(mailbox):
    ready: list[str] = []
    waiting = threading.Thread(target=lambda: ready.append(mailbox.ready()))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    mailbox.take("group", 0)
    waiting.join(LONG / 2)
    assert ready == ["group"]


def test_a_job_of_a_mailbox_without_workers_loses_its_slot(mailbox):
    slot = Slot(mailbox, a_job(restarts=1))
    mailbox.put(take(mailbox).number, an_epoch(1))
    mailbox.lose("its worker group ended: no such file")
    # Events that were sent before still arrive.
    assert slot.ended().events == [Begin(0, "group"), an_epoch(1)]
    assert isinstance(slot.error, SlotLost)
    assert str(slot.error) == "its worker group ended: no such file"
    after = Slot(mailbox, a_job()).ended()
    assert isinstance(after.error, SlotLost)
    with pytest.raises(SlotLost, match="no such file"):
        mailbox.ready()
