"""Tests of the feedback from source tasks to target tasks, in both forms and all wirings."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mtl.errors import InputError
from mtl.models.frameworks import Framework, TeacherForcing
from mtl.models.frameworks.feedback import feedback_values
from mtl.tasks import TASKS
from mtl.training.trainer import Trainer
from tests.support.laws import config, data, inputs, labels, model

FORMS = ("features", "labels")
LENGTHS = (6, 3, 1, 5)
WIRINGS = tuple(
    (sources, (target,))
    for target in TASKS
    for size in (1, 2, 3)
    for sources in combinations([task for task in TASKS if task != target], size)
)


def wired(form: str, sources: tuple[str, ...], targets: tuple[str, ...], **more: Any) -> Framework:
    wiring = {"form": form, "sources": list(sources), "targets": list(targets)}
    return model(config("gru", "mlp", "feedback", framework=wiring, **more))


def test_there_are_28_wirings_of_one_target() -> None:
    assert len(WIRINGS) == len(set(WIRINGS)) == 28


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("sources", "targets"), [*WIRINGS, (("valence",), ("arousal", "expression"))]
)
def test_outputs_of_a_target_depend_on_each_source_and_not_the_reverse(
    form: str, sources: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    network = wired(form, sources, targets)
    x, valid = inputs(LENGTHS)
    before, _ = network(x, valid, None)
    for task in TASKS:
        with torch.no_grad():
            kept = {k: v.clone() for k, v in network.heads[task].state_dict().items()}
            for parameter in network.heads[task].parameters():
                parameter.add_(0.5)
        after, _ = network(x, valid, None)
        network.heads[task].load_state_dict(kept)
        changed = {t for t in TASKS if not torch.equal(before[t], after[t])}
        assert changed == ({task, *targets} if task in sources else {task})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("sources", "targets"), WIRINGS)
def test_no_gradient_of_a_target_reaches_a_source(
    form: str, sources: tuple[str, ...], targets: tuple[str, ...]
) -> None:
    network = wired(form, sources, targets)
    x, valid = inputs(LENGTHS)
    outputs, _ = network(x, valid, None)
    sum(outputs[target].square().sum() for target in targets).backward()
    for source in sources:
        for part in (network.heads[source], network.tops[source]):
            assert all(p.grad is None or not p.grad.any() for p in part.parameters())


IMPOSSIBLE = [
    (["valence"], ["valence"], "framework.targets: valence is a source too"),
    (["valence", "arousal"], ["expression", "arousal"], "framework.targets: arousal is a source"),
    ([], ["arousal"], "framework.sources is empty"),
    (["valence"], [], "framework.targets is empty"),
    (["valence", "valence"], ["arousal"], "framework.sources names valence twice"),
    (["joy"], ["arousal"], "framework.sources: 'joy' is unknown"),
]


@pytest.mark.parametrize(("sources", "targets", "message"), IMPOSSIBLE)
def test_an_impossible_wiring_is_refused_by_name(
    sources: list[str], targets: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        config("gru", "mlp", "feedback", framework={"sources": sources, "targets": targets})


@pytest.mark.parametrize("role", ["sources", "targets"])
def test_a_task_that_is_not_trained_is_refused_by_name(role: str) -> None:
    wiring = {"sources": ["valence"], "targets": ["arousal"], role: ["action_units"]}
    tasks = ["valence", "arousal", "expression"]
    with pytest.raises(InputError, match=f"framework.{role}: action_units is not trained"):
        config("gru", "mlp", "feedback", framework=wiring, tasks=tasks)


def raw_outputs(task: str, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, TASKS[task].width, generator=generator)


def truth(shown: bool = True) -> TeacherForcing:
    known, _ = labels(6, np.random.default_rng(0))
    whole = torch.from_numpy(known).reshape(2, 3, 15)
    return TeacherForcing(whole, torch.full(whole.shape, shown))


def test_values_are_those_of_their_kind() -> None:
    raw = raw_outputs("valence")
    torch.testing.assert_close(
        feedback_values(TASKS["valence"], raw, None), (raw.clamp(-1, 1) + 1) / 2
    )
    raw = raw_outputs("expression")
    assert torch.equal(
        feedback_values(TASKS["expression"], raw, None), functional.softmax(raw, dim=-1)
    )
    raw = raw_outputs("action_units")
    assert torch.equal(feedback_values(TASKS["action_units"], raw, None), torch.sigmoid(raw))


def test_shown_values_are_the_labels() -> None:
    known = truth()
    for name, task in TASKS.items():
        found = feedback_values(task, raw_outputs(name), known)
        label = known.labels[..., task.labels]
        if task.kind == "regression":
            label = (label + 1) / 2
        elif task.kind == "multiclass":
            label = functional.one_hot(label[..., 0].long(), 8).float()
        assert torch.equal(found, label)


@pytest.mark.parametrize("wrong", [-5.0, -1.0, float("nan"), 1e9])
def test_a_label_that_is_not_shown_contributes_nothing(wrong: float) -> None:
    known = truth(shown=False)
    odd = TeacherForcing(torch.full_like(known.labels, wrong), known.shown)
    for name, task in TASKS.items():
        raw = raw_outputs(name)
        assert torch.equal(feedback_values(task, raw, odd), feedback_values(task, raw, None))


def test_labels_are_shown_to_targets_alone() -> None:
    network = wired("labels", ("valence", "action_units"), ("arousal",))
    x, valid = inputs((3, 3))
    before, _ = network(x, valid, None)
    after, _ = network(x, valid, None, truth())
    assert {t for t in TASKS if not torch.equal(before[t], after[t])} == {"arousal"}


def test_embeddings_are_learnt_from_the_target_alone() -> None:
    network = wired("labels", ("valence", "expression"), ("arousal",))
    x, valid = inputs(LENGTHS)
    outputs, _ = network(x, valid, None)
    outputs["valence"].sum().backward(retain_graph=True)
    assert all(p.grad is None for p in network.embeddings.parameters())
    outputs["arousal"].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.embeddings.parameters())


def test_the_teacher_forcing_ratio_falls_to_zero() -> None:
    network = wired("labels", ("valence",), ("arousal",))
    assert network.teacher_forcing_ratio(0.0) == 0.75
    assert network.teacher_forcing_ratio(0.5) == 0.375
    assert network.teacher_forcing_ratio(1.0) == 0.0
    assert wired("features", ("valence",), ("arousal",)).teacher_forcing_ratio(0.0) == 0.0


def test_known_labels_are_shown_by_the_ratio_in_training_and_never_at_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wiring = {"form": "labels", "sources": ["valence"], "targets": ["arousal"]}
    trial = config("gru", "mlp", "feedback", framework=wiring, training={"epochs": 5})
    trainer = Trainer(trial, data((150,) * 6))
    seen: list[tuple[bool, TeacherForcing | None]] = []
    known: list[Tensor] = []
    cut = trainer.batches.cut

    def remember(windows: Any) -> Any:
        batch = cut(windows)
        known.append(batch.mask)
        return batch

    monkeypatch.setattr(trainer.batches, "cut", remember)
    trainer.model.register_forward_pre_hook(
        lambda module, given: seen.append((module.training, given[3] if len(given) > 3 else None))
    )
    shares = []
    for _ in trainer.epochs():
        shown = [
            t.shown.sum() / m.sum()
            for (training, t), m in zip([s for s in seen if s[0]], known, strict=True)
            if t
        ]
        shares.append(float(torch.stack(shown).mean()) if shown else 0.0)
        assert all(t is None for training, t in seen if not training)
        seen.clear()
        known.clear()
    torch.testing.assert_close(
        torch.tensor(shares), torch.tensor([0.75, 0.5625, 0.375, 0.1875, 0.0]), atol=0.05, rtol=0
    )
