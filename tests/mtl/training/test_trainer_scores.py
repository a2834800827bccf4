"""Scores on select, and the best epoch of each task."""

import math

import numpy as np
import pytest
import torch

from mtl.errors import TrainingError
from mtl.evaluation import metrics
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
    """Return a trainer whose epochs have the given scores."""
    given = iter(scores)
    monkeypatch.setattr(Trainer, "_score_select", lambda self, epoch: next(given))
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
