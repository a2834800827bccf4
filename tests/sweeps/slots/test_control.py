"""Control of a trial in training: decisions for its job, and requests to stop."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from sweeps.slots.control import Stop, TrialControl

LONG = 10.0
AT_ONCE = 0.0


@pytest.fixture
def control() -> TrialControl:
    control = TrialControl()
    control.begin("demo/0001")
    return control


def answer_after(ask: Callable[[], Any], then: Callable[[], None]) -> Any:
    """Return the answer of ``ask``, which waits in a thread until ``then`` has been called."""
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask()))
    asking.start()
    asking.join(0.1)
    assert asking.is_alive(), f"it did not wait: {answers}"
    then()
    asking.join(LONG / 2)
    assert not asking.is_alive()
    return answers[0]


@pytest.mark.parametrize("prune", [True, False])
def test_a_decision_can_come_before_or_during_the_wait_for_it(control, prune):
    control.decide("demo/0001", 2, prune)
    assert control.decision(2, AT_ONCE) is prune
    decision = answer_after(
        lambda: control.decision(4, LONG), lambda: control.decide("demo/0001", 4, not prune)
    )
    assert decision is not prune


def test_the_wait_for_a_decision_ends_without_one(control):
    control.decide("demo/0001", 2, True)
    assert control.decision(3, 0.01) is None


def test_a_decision_for_another_job_is_dropped(control):
    control.decide("demo/0000", 2, True)
    assert control.decision(2, AT_ONCE) is None
    control.decide("demo/0001", 2, True)
    control.begin("demo/0002")
    assert control.decision(2, AT_ONCE) is None


def test_a_stop_ends_the_wait_for_a_decision(control):
    decision = answer_after(
        lambda: control.decision(2, LONG), lambda: control.stop(Stop.AFTER_EPOCH)
    )
    assert decision is False
    # A decision is returned in spite of the stop, because the study has recorded it.
    control.decide("demo/0001", 2, True)
    assert control.decision(2, AT_ONCE) is True


def test_a_stop_holds_for_all_later_jobs(control):
    assert control.stopped() is Stop.NOT
    control.stop(Stop.NOW)
    control.stop(Stop.AFTER_EPOCH)
    control.begin("demo/0002")
    assert control.stopped() is Stop.NOW


def test_the_wait_for_a_stop_ends_with_each_more_urgent_request(control):
    request = answer_after(
        lambda: control.stop_above("demo/0001", Stop.NOT, LONG),
        lambda: control.stop(Stop.AFTER_EPOCH),
    )
    assert request is Stop.AFTER_EPOCH
    # A known request does not end the wait.
    request = answer_after(
        lambda: control.stop_above("demo/0001", Stop.AFTER_EPOCH, LONG),
        lambda: control.stop(Stop.NOW),
    )
    assert request is Stop.NOW
    assert control.stop_above("demo/0001", Stop.AFTER_EPOCH, LONG) is Stop.NOW
    assert control.stop_above("demo/0001", Stop.NOW, 0.01) is Stop.NOW


def test_the_wait_for_a_stop_ends_when_the_next_job_begins(control):
    request = answer_after(
        lambda: control.stop_above("demo/0001", Stop.NOT, LONG), lambda: control.begin("demo/0002")
    )
    assert request is Stop.NOT
