"""What a job in training is told: decisions of its own study, and when to stop."""

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


def heard(ask: Callable[[], Any], then: Callable[[], None]) -> Any:
    """What one thread hears that asked before another one spoke."""
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
def test_a_decision_may_come_before_or_after_it_is_asked_for(control, prune):
    control.decide("demo/0001", 2, prune)
    assert control.decision(2, AT_ONCE) is prune
    told = heard(
        lambda: control.decision(4, LONG), lambda: control.decide("demo/0001", 4, not prune)
    )
    assert told is not prune


def test_without_a_decision_there_is_none_in_time(control):
    control.decide("demo/0001", 2, True)
    assert control.decision(3, 0.01) is None


def test_a_decision_on_another_job_is_not_heard(control):
    control.decide("demo/0000", 2, True)
    assert control.decision(2, AT_ONCE) is None
    control.decide("demo/0001", 2, True)
    control.begin("demo/0002")
    assert control.decision(2, AT_ONCE) is None


def test_whoever_waits_for_a_decision_is_told_to_stop_instead(control):
    assert heard(lambda: control.decision(2, LONG), lambda: control.stop(Stop.AFTER_EPOCH)) is False
    # But what was decided stands: the study has it on record.
    control.decide("demo/0001", 2, True)
    assert control.decision(2, AT_ONCE) is True


def test_a_stop_is_for_every_job_and_never_taken_back(control):
    assert control.stopped() is Stop.NOT
    control.stop(Stop.NOW)
    control.stop(Stop.AFTER_EPOCH)
    control.begin("demo/0002")
    assert control.stopped() is Stop.NOW


def test_who_listens_hears_a_sooner_stop_once(control):
    told = heard(
        lambda: control.stop_above("demo/0001", Stop.NOT, LONG),
        lambda: control.stop(Stop.AFTER_EPOCH),
    )
    assert told is Stop.AFTER_EPOCH
    # What is known is not told again.
    told = heard(
        lambda: control.stop_above("demo/0001", Stop.AFTER_EPOCH, LONG),
        lambda: control.stop(Stop.NOW),
    )
    assert told is Stop.NOW
    assert control.stop_above("demo/0001", Stop.AFTER_EPOCH, LONG) is Stop.NOW
    assert control.stop_above("demo/0001", Stop.NOW, 0.01) is Stop.NOW


def test_who_listens_for_another_job_is_let_go(control):
    told = heard(
        lambda: control.stop_above("demo/0001", Stop.NOT, LONG), lambda: control.begin("demo/0002")
    )
    assert told is Stop.NOT
