"""What a worker of a group slot does, without Ray: what it takes, tells, and does not survive."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mtl.errors import TrainingError
from mtl.optimisation.distributed import Workers
from sweeps.records.messages import Job
from sweeps.slots import ddp_workers as module
from sweeps.slots.control import Stop, TrialControl
from sweeps.slots.ddp_workers import RemoteTrialControl, is_peer_failure, train_jobs
from sweeps.slots.mailbox import SHUTDOWN, Assignment
from sweeps.slots.setup import SlotSetup

EPOCH, END = object(), object()


class Slot:
    """Its side of the calls; the answer of each is there at once, or never."""

    def __init__(self, *jobs: str) -> None:
        self.to_take: list[Any] = [Assignment(n, Job(name, {})) for n, name in enumerate(jobs)]
        self.told: list[Any] = []
        self.begun: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(type(self), f"on_{name}").__get__(self))

    def on_take(self, placement_group: str, seconds: float) -> Any:
        assert placement_group == "a1"
        return self.to_take.pop(0) if self.to_take else SHUTDOWN

    def on_put(self, number: int, event: Any) -> None:
        self.told.append((number, event))

    def on_begin(self, number: int) -> None:
        self.begun.append(number)

    def on_fail(self, number: int, reason: str, trace: str, own: bool) -> None:
        self.told.append((number, reason, trace, own))

    def on_stop_above(self, job: str, known: Stop, seconds: float) -> Any:
        return None


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each job does when it is trained: events, and perhaps an error."""
    found: dict[str, Any] = {}

    class Run:
        def __init__(self, job: Job, config: Any, data: Any, told: Any, workers: Workers) -> None:
            self.job, found["told"] = job, told

        def events(self) -> Iterator[Any]:
            for event in found[self.job.name]:
                if isinstance(event, Exception):
                    raise event
                yield event

    group = SimpleNamespace(id=SimpleNamespace(hex=lambda: "a1"))
    util = SimpleNamespace(get_current_placement_group=lambda: group)
    fake = SimpleNamespace(
        get=lambda answer: answer, util=util, wait=lambda refs, timeout: ([], [])
    )
    monkeypatch.setattr(module, "ray", fake)
    monkeypatch.setattr(module, "TrialLoop", Run)
    monkeypatch.setattr(module, "read_config", lambda config: config)
    monkeypatch.setattr(
        module, "SlotData", lambda *setup: SimpleNamespace(for_trial=lambda config, fold: None)
    )
    return found


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before + 1
    torch.set_num_threads(before)


def a_setup(threads: int = 1) -> list[Any]:
    return [SlotSetup(None, None, {}, threads)]  # type: ignore[arg-type]


def test_it_trains_job_after_job_until_it_is_sent_home(jobs, threads):
    jobs |= {"one": [EPOCH, END], "two": [END]}
    slot = Slot("one", "two")
    train_jobs(slot, a_setup(threads))
    assert slot.told == [(0, EPOCH), (0, END), (1, END)]
    assert slot.begun == [0, 1]
    assert torch.get_num_threads() == threads


def test_when_nothing_comes_it_asks_again(jobs):
    jobs["one"] = [END]
    slot = Slot("one")
    slot.to_take.insert(0, None)
    train_jobs(slot, a_setup())
    assert slot.told == [(0, END)]


def test_an_error_that_all_meet_ends_the_trial_and_no_worker(jobs):
    jobs |= {"one": [EPOCH, TrainingError("not finite:\nlower it")], "two": [END]}
    slot = Slot("one", "two")
    train_jobs(slot, a_setup())
    (number, reason, trace, own) = slot.told[1]
    assert (number, reason, own) == (0, "TrainingError: not finite:", True)
    assert trace.startswith("Traceback")
    assert trace.rstrip().endswith("lower it")
    assert slot.told[2:] == [(1, END)]


def test_any_other_error_is_told_and_ends_the_worker(jobs):
    """The others wait for a collective that will not come."""
    jobs |= {"one": [ValueError("bad row")], "two": [END]}
    slot = Slot("one", "two")
    with pytest.raises(ValueError, match="bad row"):
        train_jobs(slot, a_setup())
    ((number, reason, trace, own),) = slot.told
    assert (number, reason, own) == (0, "ValueError: bad row", True)
    assert "in events" in trace


def test_a_peers_end_ends_the_worker_and_is_not_its_own(jobs):
    """What ended the peer is its own to tell, or it was killed and the trial goes on."""
    jobs["one"] = [RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:123")]
    slot = Slot("one")
    with pytest.raises(RuntimeError, match="gloo"):
        train_jobs(slot, a_setup())
    ((number, reason, _, own),) = slot.told
    assert (number, own) == (0, False)
    assert "gloo" in reason


def test_a_second_worker_asks_and_tells_nothing_but_its_own_errors(jobs, monkeypatch):
    jobs |= {"one": [EPOCH, END], "two": [ValueError("bad row")]}
    shared: list[Any] = [Assignment(4, Job("one", {})), None, Assignment(6, Job("two", {}))]

    class Second(Workers):
        def broadcast_object(self, value: Any) -> Any:
            assert value is None
            return shared.pop(0)

    second = SimpleNamespace(from_process_group=lambda: Second(rank=1, size=2))
    monkeypatch.setattr(module, "Workers", second)
    slot = Slot()
    with pytest.raises(ValueError, match="bad row"):
        train_jobs(slot, a_setup())
    assert [told[:2] for told in slot.told] == [(6, "ValueError: bad row")]
    assert jobs["told"] is None
    assert slot.begun == []


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (torch.distributed.DistNetworkError("the connection was reset"), True),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (RuntimeError("Connection reset by peer"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (TrainingError("the loss of valence is not finite at epoch 1, step 2"), False),
        (ValueError("no gloo here"), False),
    ],
)
def test_a_broken_collective_is_told_from_an_error(error, gone):
    assert is_peer_failure(error) is gone


def test_a_stop_comes_by_itself_and_is_listened_for_again(monkeypatch):
    """``stopped`` asks nobody: it is looked at every few steps."""
    answers: list[Stop] = []
    asked: list[Any] = []

    def wait(calls: list[Any], timeout: float) -> Any:
        assert timeout == 0
        return (calls, []) if answers else ([], calls)

    def get(call: Any) -> Any:
        return answers.pop(0) if isinstance(call, tuple) else call

    monkeypatch.setattr(module, "ray", SimpleNamespace(wait=wait, get=get))
    control = TrialControl()
    slot: Any = SimpleNamespace(
        stop_above=SimpleNamespace(remote=lambda *call: asked.append(call[:2]) or call),
        decision=SimpleNamespace(remote=control.decision),
    )
    told = RemoteTrialControl(slot, Job("one", {}))
    assert told.stopped() is Stop.NOT
    answers.append(Stop.AFTER_EPOCH)
    assert told.stopped() is Stop.AFTER_EPOCH
    assert told.stopped() is Stop.AFTER_EPOCH
    answers.append(Stop.NOW)
    assert told.stopped() is Stop.NOW
    # Only for a sooner one than is known, and never twice at a time.
    assert asked == [("one", Stop.NOT), ("one", Stop.AFTER_EPOCH), ("one", Stop.NOW)]
    control.begin("one")
    control.decide("one", 3, True)
    assert told.decision(3, 1.0) is True
