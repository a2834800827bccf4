"""Timing of batches: one batch of the config's size, in each encoder, framework and balancing."""

import time
from collections.abc import Iterator, Sequence

import pytest
import torch

from mtl.losses.balancing import BALANCINGS
from mtl.models.encoders import ENCODERS
from mtl.models.frameworks import FRAMEWORKS
from mtl.tasks import TASKS
from mtl.training import batch_time as module
from mtl.training import inference
from mtl.training.batch_time import BatchTime, time_batch
from mtl.training.inference import EVALUATION_LANES
from mtl.training.trainer import EpochResult, Trainer
from sweeps.planning.compose import compose

SMALL = ("encoder.hidden=8", "sequence.window_frames=16", "optim.lr=100.0")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Let no thread of torch wait for another one, which takes time of a busy processor."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def timed(*overrides: str, windows: int = 4) -> BatchTime:
    config = compose([*SMALL, *overrides])
    return time_batch(config, tuple(TASKS), 5, windows, EVALUATION_LANES, limit_seconds=0.0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_epoch_is_one_batch_and_so_is_its_scoring(encoder, monkeypatch):
    """Of the four windows of an encoder without carried state two are shorter."""
    results: list[EpochResult] = []
    predicted: list[int] = []
    trained: list[int] = []

    class Watched(Trainer):
        def epochs(self, *arguments):
            for result in super().epochs(*arguments):
                results.append(result)
                yield result

        def _schedule(self, epoch):
            schedule = super()._schedule(epoch)
            trained.append(len(schedule))
            assert schedule.shape[1] in ((4,) if self.model.carries_state else (3, 4))
            return schedule

    class Batches(inference.Batches):
        def __call__(self, schedule):
            predicted.append(len(schedule))
            assert schedule.shape[1] == EVALUATION_LANES
            return super().__call__(schedule)

    monkeypatch.setattr(module, "Trainer", Watched)
    monkeypatch.setattr(inference, "Batches", Batches)
    found = timed(f"encoder={encoder}")
    windows = 4 if ENCODERS[encoder].carries_state else 3
    assert [result.frames for result in results] == [windows * 16] * 2
    assert trained == [1, 1]
    assert predicted == [1, 1, 1]
    assert found.training_seconds > 0
    assert found.prediction_seconds > 0


@pytest.mark.parametrize(
    "overrides",
    [
        *([f"framework={name}"] for name in FRAMEWORKS),
        *([f"balancing={name}"] for name in BALANCINGS),
        ["framework=feedback", "framework.form=labels"],
    ],
    ids=str,
)
def test_every_kind_of_model_can_be_timed_at_any_learning_rate(overrides: Sequence[str]):
    assert timed(*overrides).training_seconds > 0


def test_a_larger_model_takes_longer_and_needs_more_memory():
    small = timed("encoder=transformer")
    large = timed("encoder=transformer", "encoder.hidden=512", windows=32)
    assert large.training_seconds > 3 * small.training_seconds
    assert large.prediction_seconds > 1.5 * small.prediction_seconds
    assert large.memory_bytes > 10 * 10**6


def test_a_task_alone_can_be_timed():
    config = compose([*SMALL, "tasks=[expression]"])
    assert time_batch(config, ("expression",), 5, 4, 4).training_seconds > 0


def test_a_processor_that_works_for_others_is_not_counted(monkeypatch):
    """Waiting, as while other programs compute, lengthens the wall time only."""
    step = Trainer._step

    def slow(self, *arguments):
        time.sleep(0.3)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", slow)
    assert timed().training_seconds < 0.15
