"""Early end of a training: after a stop request, and when a number is not finite."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl.errors import TrainingError
from mtl.sequences.windows import carried_schedule
from mtl.training.trainer import Trainer
from tests.support.laws import (
    ENCODER_NAMES,
    config,
    data,
)


@pytest.mark.parametrize("checks", [0, 1, 2])
def test_a_stop_request_ends_training_before_the_next_result(checks: int) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > checks

    trainer = Trainer(config(training={"epochs": 50}, optim={"batch_videos": 1}), data())
    results = list(trainer.epochs(stop))
    # An epoch has eight steps, with a check before the first and the fifth.
    assert asked == checks + 1
    assert len(results) == checks // 2 == len(trainer.learning_curve)


def test_a_stop_request_takes_effect_within_few_steps() -> None:
    stopped = False
    trainer = Trainer(config(optim={"batch_videos": 1}), data(train=(60,) * 4))
    steps: list[int] = []

    def count(*_: object) -> None:
        nonlocal stopped
        steps.append(1)
        stopped = len(steps) >= 10

    trainer.optimizer.register_step_post_hook(count)
    assert not list(trainer.epochs(lambda: stopped))
    assert len(steps) <= 14


def nan_after(trainer: Trainer, steps: int) -> None:
    """Set a parameter to NaN after a number of steps."""
    taken: list[int] = []

    def poison(*_: object) -> None:
        taken.append(1)
        if len(taken) == steps:
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(math.nan)

    trainer.optimizer.register_step_post_hook(poison)


def steps_per_epoch() -> int:
    schedule = carried_schedule([len(v) for v in data().train], 3, 4, np.random.default_rng(0))
    return len(schedule)


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_a_loss_that_is_not_finite_names_epoch_and_step(encoder: str) -> None:
    trainer = Trainer(config(encoder), data())
    nan_after(trainer, 1)
    expected = "the loss of valence, arousal, expression, action_units is not finite at epoch 1, "
    with pytest.raises(TrainingError, match=rf"{expected}step 2: lower optim\.lr = 0\.01"):
        next(trainer.epochs())
    assert not trainer.learning_curve


def test_the_error_of_a_diverging_training_names_the_learning_rate() -> None:
    trainer = Trainer(config(optim={"lr": 1e30, "warmup_epochs": 0}), data())
    with pytest.raises(TrainingError, match=r"not finite at epoch 1, step \d+: .*1e\+30"):
        list(trainer.epochs())


def test_a_feature_that_is_not_finite_is_an_error() -> None:
    first, *rest = data().train
    block = first.features[0].block.copy()
    block[6] = np.nan
    broken = replace(first, features=(replace(first.features[0], block=block), first.features[1]))
    zoo = replace(data(), train=(broken, *rest))
    with pytest.raises(TrainingError, match="not finite at epoch 1"):
        list(Trainer(config(), zoo).epochs())


def test_weights_that_are_not_finite_after_the_last_step_are_an_error() -> None:
    trainer = Trainer(config(), data())
    nan_after(trainer, 2 * steps_per_epoch())
    epochs = trainer.epochs()
    next(epochs)
    with pytest.raises(TrainingError, match="predictions of valence are not finite after epoch 2"):
        next(epochs)
    assert len(trainer.learning_curve) == 1
