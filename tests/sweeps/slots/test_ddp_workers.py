"""Worker of a group slot, without Ray: jobs it takes, events it sends, errors that end it."""

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
    """Stand-in for a group slot: each call has its answer at once, or never."""

    def __init__(self, *jobs: str) -> None:
        self.to_take: list[Any] = [Assignment(n, Job(name, {})) for n, name in enumerate(jobs)]
        self.received: list[Any] = []
        self.begun: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(type(self), f"on_{name}").__get__(self))

    def on_take(self, placement_group: str, seconds: float) -> Any:
        assert placement_group == "a1"
        return self.to_take.pop(0) if self.to_take else SHUTDOWN

    def on_put(self, number: int, event: Any) -> None:
        self.received.append((number, event))

    def on_begin(self, number: int) -> None:
        self.begun.append(number)

    def on_fail(self, number: int, reason: str, trace: str, own: bool) -> None:
        self.received.append((number, reason, trace, own))

    def on_stop_above(self, job: str, known: Stop, seconds: float) -> Any:
        return None


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Job name -> events of its training; an exception among them is raised in its turn."""
    scripts: dict[str, Any] = {}

    class Run:
        def __init__(
            self, job: Job, config: Any, data: Any, control: Any, workers: Workers
        ) -> None:
            self.job, scripts["control"] = job, control

        def events(self) -> Iterator[Any]:
            for event in scripts[self.job.name]:
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
    return scripts


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before + 1
    torch.set_num_threads(before)


def a_setup(threads: int = 1) -> list[Any]:
    return [SlotSetup(None, None, {}, threads)]  # type: ignore[arg-type]


def test_a_worker_trains_jobs_until_the_slot_is_closed(jobs, threads):
    jobs |= {"one": [EPOCH, END], "two": [END]}
    slot = Slot("one", "two")
    train_jobs(slot, a_setup(threads))
    assert slot.received == [(0, EPOCH), (0, END), (1, END)]
    assert slot.begun == [0, 1]
    assert torch.get_num_threads() == threads


def test_a_worker_without_a_job_asks_again(jobs):
    jobs["one"] = [END]
    slot = Slot("one")
    slot.to_take.insert(0, None)
    train_jobs(slot, a_setup())
    assert slot.received == [(0, END)]


def test_a_training_error_fails_the_trial_and_ends_no_worker(jobs):
    jobs |= {"one": [EPOCH, TrainingError("not finite:\nlower it")], "two": [END]}
    slot = Slot("one", "two")
    train_jobs(slot, a_setup())
    (number, reason, trace, own) = slot.received[1]
    assert (number, reason, own) == (0, "TrainingError: not finite:", True)
    assert trace.startswith("Traceback")
    assert trace.rstrip().endswith("lower it")
    assert slot.received[2:] == [(1, END)]


def test_any_other_error_is_sent_and_ends_the_worker(jobs):
    """The other workers wait for a collective call that this worker does not make."""
    jobs |= {"one": [ValueError("bad row")], "two": [END]}
    slot = Slot("one", "two")
    with pytest.raises(ValueError, match="bad row"):
        train_jobs(slot, a_setup())
    ((number, reason, trace, own),) = slot.received
    assert (number, reason, own) == (0, "ValueError: bad row", True)
    assert "in events" in trace


def test_a_peer_failure_ends_the_worker_and_is_not_its_own_error(jobs):
    """The peer sends its own error; if it was killed instead, the trial continues."""
    jobs["one"] = [RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:123")]
    slot = Slot("one")
    with pytest.raises(RuntimeError, match="gloo"):
        train_jobs(slot, a_setup())
    ((number, reason, _, own),) = slot.received
    assert (number, own) == (0, False)
    assert "gloo" in reason


def test_a_second_worker_sends_nothing_but_its_own_errors(jobs, monkeypatch):
    jobs |= {"one": [EPOCH, END], "two": [ValueError("bad row")]}
    broadcasts: list[Any] = [Assignment(4, Job("one", {})), None, Assignment(6, Job("two", {}))]

    class Second(Workers):
        def broadcast_object(self, value: Any) -> Any:
            assert value is None
            return broadcasts.pop(0)

    second = SimpleNamespace(from_process_group=lambda: Second(rank=1, size=2))
    monkeypatch.setattr(module, "Workers", second)
    slot = Slot()
    with pytest.raises(ValueError, match="bad row"):
        train_jobs(slot, a_setup())
    assert [sent[:2] for sent in slot.received] == [(6, "ValueError: bad row")]
    assert jobs["control"] is None
    assert slot.begun == []


@pytest.mark.parametrize(
    ("error", "peer_failed"),
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
def test_a_peer_failure_is_recognised_by_its_error(error, peer_failed):
    assert is_peer_failure(error) is peer_failed


def test_a_stop_request_is_read_from_an_open_call_that_is_renewed(monkeypatch):
    """Training calls ``stopped`` every few steps, so it only checks a call that is open already."""
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
    remote = RemoteTrialControl(slot, Job("one", {}))
    assert remote.stopped() is Stop.NOT
    answers.append(Stop.AFTER_EPOCH)
    assert remote.stopped() is Stop.AFTER_EPOCH
    assert remote.stopped() is Stop.AFTER_EPOCH
    answers.append(Stop.NOW)
    assert remote.stopped() is Stop.NOW
    # One call is open at a time; it waits for a more urgent request than the known one.
    assert asked == [("one", Stop.NOT), ("one", Stop.AFTER_EPOCH), ("one", Stop.NOW)]
    control.begin("one")
    control.decide("one", 3, True)
    assert remote.decision(3, 1.0) is True
