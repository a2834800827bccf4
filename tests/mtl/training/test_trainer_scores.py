"""Scores on select, the best epoch of each task, and collapsed tasks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl.errors import TrainingError
from mtl.evaluation import metrics
from mtl.optimisation.checkpoint import pack, read_checkpoint
from mtl.tasks import TASKS
from mtl.training.trainer import Trainer
from tests.support.laws import (
    FEW_MODELS,
    STATEFUL_ENCODERS,
    config,
    data,
    features_of,
)


def scored(monkeypatch: pytest.MonkeyPatch, scores: list[dict[str, float | None]]) -> Trainer:
    """Return a trainer whose epochs have the given scores, and no output spread."""
    given = iter(scores)
    monkeypatch.setattr(Trainer, "_score_select", lambda self, epoch: (next(given), {}))
    return Trainer(config(training={"epochs": len(scores)}), data())


def test_each_task_keeps_its_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    valence, arousal = (-0.4, -0.1, -0.2, -0.1), (0.1, 0.0, 0.3, 0.2)
    expression, units = (0.5, 0.5, 0.5, 0.6), (None, None, None, None)
    columns = zip(valence, arousal, expression, units, strict=True)
    epochs = scored(monkeypatch, [dict(zip(TASKS, row, strict=True)) for row in columns]).epochs()
    results = list(epochs)
    assert [list(r.best_epochs.values()) for r in results] == [
        [1, 1, 1, 1],
        [2, 1, 1, 2],
        [2, 3, 1, 3],
        [2, 3, 4, 4],
    ]
    assert [list(r.best_scores.values()) for r in results] == [
        [-0.4, 0.1, 0.5, None],
        [-0.1, 0.1, 0.5, None],
        [-0.1, 0.3, 0.5, None],
        [-0.1, 0.3, 0.6, None],
    ]
    assert [r.objective for r in results] == pytest.approx([0.35, 0.5, 0.6, 0.7])


def test_negative_scores_give_a_negative_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    scores: dict[str, float | None] = dict.fromkeys(TASKS)
    trainer = scored(monkeypatch, [scores | {"valence": -0.9}, scores | {"valence": -0.8}])
    assert [r.objective for r in trainer.epochs()] == [-0.9, -0.8]


def test_a_select_part_without_labels_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = scored(monkeypatch, [dict.fromkeys(TASKS)])
    with pytest.raises(TrainingError, match="no frame of select has a label of valence, arousal"):
        next(trainer.epochs())


@pytest.mark.parametrize("names", FEW_MODELS, ids="-".join)
def test_best_scores_are_the_best_scores_on_select(names: tuple[str, str, str]) -> None:
    zoo = data()
    trainer = Trainer(config(*names), zoo)
    best = dict.fromkeys(TASKS, -math.inf)
    for result in trainer.epochs():
        best = {task: max(best[task], result.scores[task]) for task in TASKS}
        assert result.best_scores == best
        assert result.objective == metrics.combine(best)
        for task, epoch in result.best_epochs.items():
            assert trainer.learning_curve[epoch - 1].scores[task] == best[task]


@pytest.mark.parametrize("encoder", STATEFUL_ENCODERS)
def test_a_score_is_computed_on_whole_videos(encoder: str) -> None:
    zoo = data()
    trainer = Trainer(config(encoder), zoo)
    *_, result = trainer.epochs()
    network, where = trainer.model.eval(), zoo.parts["select"]
    outputs = [
        network(features_of(video, slice(None), zoo), torch.ones(1, len(video)).bool(), None)[0]
        for video in where.sequences
    ]
    values = np.concatenate([o["valence"][0].clamp(-1, 1).detach().numpy() for o in outputs])
    sums = metrics.task_sums(TASKS["valence"], values, where.labels[:, :1], where.mask[:, :1])
    expected = metrics.task_score(TASKS["valence"], sums)
    assert result.scores["valence"] == pytest.approx(expected, abs=1e-4)


# Output spread and collapse


FALLEN = {"optim": {"lr": 30.0}, "training": {"epochs": 3}}
"""Settings with which a small transformer gives the same outputs for every frame."""


def test_all_tasks_of_a_training_with_a_huge_learning_rate_collapse() -> None:
    first, *others = Trainer(config("transformer", **FALLEN), data()).epochs()
    assert all(spread < 0.02 for spread in first.output_spread.values())
    assert first.collapsed == dict.fromkeys(TASKS, False)  # one epoch is not enough
    for result in others:
        assert result.collapsed == dict.fromkeys(TASKS, True)


@pytest.mark.parametrize("names", FEW_MODELS, ids="-".join)
def test_a_task_has_collapsed_if_its_outputs_spread_little_in_two_epochs(
    names: tuple[str, str, str],
) -> None:
    trainer = Trainer(config(*names), data())
    list(trainer.epochs())
    earlier = dict.fromkeys(TASKS, 1.0)
    for result in trainer.learning_curve:
        assert result.collapsed == {
            task: spread < 0.02 and earlier[task] < 0.02
            for task, spread in result.output_spread.items()
        }
        earlier = result.output_spread
    assert not all(result.collapsed.values())


@pytest.mark.parametrize(
    ("warmup", "first"),
    [({"warmup_epochs": 0}, 2), ({"warmup_epochs": 1.5}, 3), ({"warmup_steps": 10**6}, None)],
    ids=str,
)
def test_no_task_collapses_before_a_whole_epoch_after_the_warm_up(
    warmup: dict[str, float], first: int | None
) -> None:
    settings = {"optim": {"lr": 1e-9, **warmup}, "training": {"epochs": 4}}
    trainer = Trainer(config("per_frame", "mlp", **settings), data())
    found = {result.epoch: any(result.collapsed.values()) for result in trainer.epochs()}
    assert found == {epoch: first is not None and epoch >= first for epoch in range(1, 5)}


def test_the_epoch_before_a_resumed_one_counts_for_its_collapse() -> None:
    trial = config("transformer", **FALLEN)
    whole = Trainer(trial, data())
    next(whole.epochs())
    resumed = Trainer(trial, data(), whole.checkpoint())
    assert next(resumed.epochs()).collapsed == dict.fromkeys(TASKS, True)


def test_the_outputs_of_videos_without_features_do_not_hide_a_collapse() -> None:
    """These outputs are the mean of the training labels, unlike the model's constant outputs."""
    zoo = data()
    where = zoo.parts["select"]
    source = np.where(where.source < len(where.sequences[0]), where.source, -1)
    cut = replace(zoo, parts={**zoo.parts, "select": replace(where, source=source)})
    *_, result = Trainer(config("transformer", **FALLEN), cut).epochs()
    assert result.collapsed == dict.fromkeys(TASKS, True)


def test_a_task_without_a_label_in_select_has_no_spread_and_does_not_count() -> None:
    zoo = data()
    where = zoo.parts["select"]
    mask = where.mask.copy()
    mask[:, TASKS["arousal"].labels] = False
    cut = replace(zoo, parts={**zoo.parts, "select": replace(where, mask=mask)})
    *_, result = Trainer(config("transformer", **FALLEN), cut).epochs()
    assert result.output_spread["arousal"] is None
    assert result.collapsed == {task: True for task in TASKS if task != "arousal"}


def test_a_checkpoint_of_an_earlier_version_has_no_spread() -> None:
    trial = config("transformer", **FALLEN)
    trainer = Trainer(trial, data())
    next(trainer.epochs())
    state = read_checkpoint(trainer.checkpoint())
    for result in state["history"]:
        del result["output_spread"], result["collapsed"]
    resumed = Trainer(trial, data(), pack(state))
    assert resumed.learning_curve[0].collapsed == {}
    second, third = resumed.epochs()
    assert second.collapsed == dict.fromkeys(TASKS, False)
    assert third.collapsed == dict.fromkeys(TASKS, True)
