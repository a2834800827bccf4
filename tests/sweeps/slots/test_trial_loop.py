"""Trial loop: events, the wait for decisions, stops, and continuation after a kill."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from mtl.config import TrialConfig
from mtl.optimisation.distributed import SINGLE_WORKER, Workers
from mtl.sequences.windows import Schedule
from mtl.tasks import TASKS
from mtl.training.inference import TrialData
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose
from sweeps.planning.plan import divide
from sweeps.records.messages import End, Epoch, Job
from sweeps.slots.control import Stop, TrialControl
from sweeps.slots.trial_loop import HEARTBEAT_SECONDS, TrialLoop
from sweeps.train import FeatureFiles
from tests.support.small_data import make_dataset, make_listing

SMALL = ("encoder.hidden=4", "encoder.layers=1", "head=linear", "training.epochs=4", "optim.lr=0.1")
TIMES = ("seconds", "data_seconds")


@pytest.fixture(scope="module")
def config() -> TrialConfig:
    return compose(SMALL)


@pytest.fixture(scope="module")
def slot_data(tmp_path_factory) -> SlotData:
    listing = make_listing()
    dataset = make_dataset(tmp_path_factory.mktemp("job") / "data", listing)
    return SlotData(FeatureFiles(dataset, listing), listing, divide(listing, 0.5, 3))


@pytest.fixture
def data(slot_data, config) -> Iterator[TrialData]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield slot_data.for_trial(config)
    torch.set_num_threads(threads)


def a_run(
    config: TrialConfig,
    data: TrialData,
    control: Any = None,
    workers: Workers = SINGLE_WORKER,
    **job: Any,
) -> TrialLoop:
    return TrialLoop(Job("demo/0000", config.plain(), **job), config, data, control, workers)


@pytest.fixture
def control() -> TrialControl:
    control = TrialControl()
    control.begin("demo/0000")
    return control


def facts(epoch: Epoch) -> dict[str, Any]:
    return {key: value for key, value in epoch.result.items() if key not in TIMES}


@pytest.fixture
def undisturbed(config, data) -> list[Any]:
    return list(a_run(config, data).events())


def weights_at(events: list[Any], epoch: int) -> dict[int, bytes]:
    """Return the weights in a trial's folder after an epoch: those of the best epochs so far."""
    best = set(events[epoch - 1].result["best_epochs"].values())
    return {number: events[number - 1].weights for number in best}


def test_the_loop_yields_each_epoch_and_then_the_predictions(undisturbed, data):
    *epochs, end = undisturbed
    assert [epoch.result["epoch"] for epoch in epochs] == [1, 2, 3, 4]
    for epoch in epochs:
        assert epoch.checkpoint
        is_best = epoch.result["epoch"] in epoch.result["best_epochs"].values()
        assert (epoch.weights is not None) == is_best
    assert end.state == "complete"
    assert end.outputs.shape == (6 * 20, 22)
    assert np.isfinite(end.outputs).all()
    expected = [data.parts[name].rows for name in ("select", "confirm", "test")]
    np.testing.assert_array_equal(end.rows, np.concatenate(expected))


def test_the_loop_follows_the_decisions_at_its_rungs(config, data, control, undisturbed):
    run = a_run(config, data, control, rungs=frozenset({1, 3}))
    control.decide("demo/0000", 1, False)
    control.decide("demo/0000", 2, True)  # ignored, since epoch 2 is no rung
    control.decide("demo/0000", 3, True)
    *epochs, end = run.events()
    assert [epoch.result["epoch"] for epoch in epochs] == [1, 2, 3]
    assert isinstance(end, End)
    assert end.state == "pruned"
    assert end.outputs.shape == (6 * 20, 22)
    assert [facts(epoch) for epoch in epochs] == [facts(epoch) for epoch in undisturbed[:3]]


def test_the_loop_waits_at_a_rung_until_the_decision_comes(config, data, control):
    events = a_run(config, data, control, rungs=frozenset({1})).events()
    next(events)
    decided = threading.Event()

    def decide() -> None:
        decided.set()
        control.decide("demo/0000", 1, False)

    timer = threading.Timer(0.2, decide)
    timer.start()
    epoch = next(events)
    assert decided.is_set()
    timer.join()
    assert isinstance(epoch, Epoch)
    assert epoch.result["epoch"] == 2


@dataclass
class Script:
    """Trial control with fixed lists of answers, one for each call; the last one is repeated."""

    decisions: list[bool | None]
    stops: list[Stop]

    def __post_init__(self) -> None:
        self.asked: list[tuple[int, float]] = []

    def decision(self, epoch: int, seconds: float) -> bool | None:
        self.asked.append((epoch, seconds))
        return self._next(self.decisions)

    def stopped(self) -> Stop:
        return self._next(self.stops)

    def _next(self, lines: list[Any]) -> Any:
        return lines.pop(0) if len(lines) > 1 else lines[0]


def test_the_loop_asks_again_while_no_decision_comes(config, data):
    """The first worker asks at intervals, so that the others' collective call does not time out."""
    script = Script([None, None, True], [Stop.NOT])
    *epochs, end = a_run(config, data, script, rungs=frozenset({2})).events()
    assert [epoch.result["epoch"] for epoch in epochs] == [1, 2]
    assert end.state == "pruned"
    assert script.asked == [(2, HEARTBEAT_SECONDS)] * 3


@pytest.mark.parametrize("rungs", [frozenset(), frozenset({1})])
@pytest.mark.parametrize("when", [Stop.NOW, Stop.AFTER_EPOCH])
def test_a_stopped_trial_ends_without_predictions(config, data, control, rungs, when):
    """A stop also ends the wait for a decision that never comes."""
    run = a_run(config, data, control, rungs=rungs)
    events = run.events()
    next(events)
    stopped = threading.Timer(0.2 if rungs else 0, control.stop, (when,))
    stopped.start()
    if not rungs:
        stopped.join()
    (end,) = events
    stopped.join()
    assert isinstance(end, End)
    assert (end.state, len(end.rows)) == ("interrupted", 0)


@pytest.mark.parametrize(("when", "trained"), [(Stop.NOW, [1]), (Stop.AFTER_EPOCH, [1, 2])])
def test_a_stop_within_an_epoch_ends_the_trial_at_once_or_after_the_epoch(slot_data, when, trained):
    """An epoch reads the stop request four times: three times in training, once after it."""
    config = compose([*SMALL, "sequence.window_frames=2", "optim.batch_videos=4"])
    script = Script([], [Stop.NOT] * 5 + [when])
    *epochs, end = a_run(config, slot_data.for_trial(config), script).events()
    assert [epoch.result["epoch"] for epoch in epochs] == trained
    assert end.state == "interrupted"


def test_a_trial_stopped_after_its_last_epoch_is_complete(config, data, control, undisturbed):
    events = a_run(config, data, control).events()
    for _ in range(4):
        next(events)
    control.stop(Stop.NOW)
    (end,) = events
    assert end.state == "complete"
    np.testing.assert_array_equal(end.outputs, undisturbed[-1].outputs)


@pytest.mark.parametrize("reported", [0, 1, 2])
def test_a_trial_continued_after_a_kill_ends_as_undisturbed(config, data, undisturbed, reported):
    """The checkpoint has two epochs, of which the study has recorded none, one or both."""
    run = a_run(
        config,
        data,
        reported=reported,
        checkpoint=undisturbed[1].checkpoint,
        weights=weights_at(undisturbed, 2),
    )
    *epochs, end = run.events()
    assert [facts(epoch) for epoch in epochs] == [facts(e) for e in undisturbed[reported:4]]
    for epoch, before in zip(epochs, undisturbed[reported:4], strict=True):
        in_checkpoint = epoch.result["epoch"] <= 2
        assert (epoch.checkpoint is None) == in_checkpoint
        assert epoch.weights == (None if in_checkpoint else before.weights)
    np.testing.assert_array_equal(end.outputs, undisturbed[-1].outputs)


def test_epochs_that_the_checkpoint_lacks_are_trained_again(config, data, undisturbed):
    """The journal has epoch 3, but the checkpoint only epoch 1."""
    run = a_run(
        config,
        data,
        reported=3,
        checkpoint=undisturbed[0].checkpoint,
        weights=weights_at(undisturbed, 1),
    )
    *epochs, end = run.events()
    assert [facts(epoch) for epoch in epochs] == [facts(e) for e in undisturbed[1:4]]
    np.testing.assert_array_equal(end.outputs, undisturbed[-1].outputs)


def test_a_trial_pruned_before_the_kill_only_predicts(config, data, undisturbed):
    run = a_run(
        config,
        data,
        rungs=frozenset({2}),
        reported=2,
        stopped=True,
        checkpoint=undisturbed[1].checkpoint,
        weights=weights_at(undisturbed, 2),
    )
    (end,) = run.events()
    assert isinstance(end, End)
    assert end.state == "pruned"
    np.testing.assert_array_equal(end.outputs, pruned_at_2(config, data)[-1].outputs)


def test_a_pruned_trial_with_an_older_checkpoint_ends_at_the_epoch_of_its_decision(
    config, data, undisturbed
):
    """The journal has a decision to prune after epoch 3, which is no rung; epoch 1 is on disk."""
    run = a_run(
        config,
        data,
        Script([], [Stop.NOT]),
        prunes_collapse=True,
        reported=3,
        stopped=True,
        checkpoint=undisturbed[0].checkpoint,
        weights=weights_at(undisturbed, 1),
    )
    *epochs, end = run.events()
    assert [facts(epoch) for epoch in epochs] == [facts(e) for e in undisturbed[1:3]]
    assert end.state == "pruned"
    assert end.outputs.shape == (6 * 20, 22)


def pruned_at_2(config: TrialConfig, data: TrialData) -> list[Any]:
    run = a_run(config, data, Script([True], [Stop.NOT]), rungs=frozenset({2}))
    return list(run.events())


@pytest.mark.parametrize("prune", [True, False])
def test_a_trial_killed_while_it_waits_for_a_decision_waits_again(config, data, undisturbed, prune):
    script = Script([None, prune], [Stop.NOT])
    run = a_run(
        config,
        data,
        script,
        rungs=frozenset({2}),
        reported=2,
        undecided=True,
        checkpoint=undisturbed[1].checkpoint,
        weights=weights_at(undisturbed, 2),
    )
    *epochs, end = run.events()
    assert script.asked == [(2, HEARTBEAT_SECONDS)] * 2
    expected = pruned_at_2(config, data)[2:] if prune else undisturbed[2:]
    assert [facts(epoch) for epoch in epochs] == [facts(epoch) for epoch in expected[:-1]]
    assert end.state == expected[-1].state
    np.testing.assert_array_equal(end.outputs, expected[-1].outputs)


COLLAPSING = ("encoder=transformer", "encoder.heads=2", "encoder.feedforward=8", "optim.lr=30")


@pytest.fixture
def fallen(slot_data, data) -> tuple[TrialConfig, TrialData]:
    """Config and data of a trial whose tasks all have collapsed at its third epoch."""
    config = compose([*SMALL[:-1], *COLLAPSING])
    return config, slot_data.for_trial(config)


def test_the_loop_waits_for_a_decision_after_a_collapse(fallen):
    script = Script([True], [Stop.NOT])
    *epochs, end = a_run(*fallen, script, prunes_collapse=True).events()
    all_collapsed = [all(epoch.result["collapsed"].values()) for epoch in epochs]
    assert all_collapsed == [False, False, True]
    assert script.asked == [(3, HEARTBEAT_SECONDS)]
    assert (end.state, end.collapsed) == ("pruned", tuple(TASKS))
    assert end.outputs.shape == (6 * 20, 22)


def test_a_task_without_labels_on_select_does_not_keep_a_collapsed_trial_training(fallen):
    config, data = fallen
    part = data.parts["select"]
    mask = part.mask.copy()
    mask[:, TASKS["arousal"].labels] = False
    cut = replace(data, parts={**data.parts, "select": replace(part, mask=mask)})
    *_, end = a_run(config, cut, Script([True], [Stop.NOT]), prunes_collapse=True).events()
    assert end.state == "pruned"
    assert end.collapsed == tuple(task for task in TASKS if task != "arousal")


def test_a_collapsed_trial_that_is_not_to_be_pruned_trains_on(fallen):
    """A wait for a decision would fail, since this control has none."""
    *epochs, end = a_run(*fallen, Script([], [Stop.NOT])).events()
    assert [epoch.result["epoch"] for epoch in epochs] == [1, 2, 3, 4]
    assert (end.state, end.collapsed) == ("complete", tuple(TASKS))


def test_the_loop_waits_for_no_decision_without_a_collapse(config, data, undisturbed):
    run = a_run(config, data, Script([], [Stop.NOT]), prunes_collapse=True)
    *epochs, end = run.events()
    assert [facts(epoch) for epoch in epochs] == [facts(epoch) for epoch in undisturbed[:4]]
    assert (end.state, end.collapsed) == ("complete", ())


@pytest.mark.parametrize("reported", [0, 2])
def test_a_collapse_that_is_reported_again_waits_again(fallen, reported):
    """The driver died before it recorded the epoch of the collapse, which the checkpoint has."""
    whole = list(a_run(*fallen).events())
    script = Script([True], [Stop.NOT])
    run = a_run(
        *fallen,
        script,
        prunes_collapse=True,
        reported=reported,
        checkpoint=whole[2].checkpoint,
        weights=weights_at(whole, 3),
    )
    *epochs, end = run.events()
    assert [facts(epoch) for epoch in epochs] == [facts(epoch) for epoch in whole[reported:3]]
    assert script.asked == [(3, HEARTBEAT_SECONDS)]
    assert (end.state, end.collapsed) == ("pruned", tuple(TASKS))


class Second(Workers):
    """Second of two workers; ``decisions`` are the values that the first one would broadcast."""

    def __init__(self, decisions: list[bool | None]) -> None:
        super().__init__(rank=1, size=2)
        object.__setattr__(self, "decisions", decisions)

    def shard(self, schedule: Schedule) -> Schedule:
        return schedule

    def wrap(self, model: Any) -> Any:
        return model

    def sum(self, parts: Any) -> Any:
        return list(parts)

    def all_reduce(self, values: Any) -> Any:
        return values

    def broadcast_flag(self, flag: bool) -> bool:
        return flag

    def broadcast_object(self, value: Any) -> Any:
        assert value is None
        return self.decisions.pop(0)


def test_a_second_worker_follows_the_broadcast_decisions_and_sends_no_weights(config, data):
    """The first worker reads the decisions, and only its checkpoints and weights are written."""
    control = Script([], [Stop.NOT])
    run = a_run(config, data, control, Second([None, False, True]), rungs=frozenset({1, 2}))
    *epochs, end = run.events()
    assert [epoch.result["epoch"] for epoch in epochs] == [1, 2]
    assert all(epoch.checkpoint is None and epoch.weights is None for epoch in epochs)
    assert end.state == "pruned"


def test_feature_sets_are_read_once_for_all_trials(slot_data, config):
    loads: list[str] = []

    class Counted:
        def load(self, name: str) -> Any:
            loads.append(name)
            return slot_data.shards.load(name)

    data = SlotData(Counted(), slot_data.listing, slot_data.parts)
    first = data.for_trial(config)
    second = data.for_trial(compose([*SMALL, "sequence.window_frames=8", "optim.lr=0.2"]))
    assert loads == ["appearance"]
    assert first.train is second.train  # sets are joined once, windows are cut later
    data.for_trial(compose([*SMALL, "sequence.frame_stride=2"]))
    assert loads == ["appearance"]
