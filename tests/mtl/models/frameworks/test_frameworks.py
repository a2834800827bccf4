from functools import cache
from itertools import combinations, product

import pytest
import torch
import yaml

from mtl.build_model import build_model
from mtl.config import read_config
from mtl.errors import InputError
from mtl.models.encoders import ENCODERS
from mtl.models.frameworks import FRAMEWORKS, States
from mtl.models.heads import HEADS
from mtl.optimisation.device import choose_device, choose_precision
from mtl.tasks import TASKS
from tests.support.covering import covering
from tests.support.laws import (
    CONFIGS,
    MODELS,
    STATEFUL_ENCODERS,
    TOLERANCE,
    WIDTH,
    config,
    gradients,
    inputs,
    model,
)

LENGTHS = (6, 3, 1, 5)
SETS = (tuple(TASKS), ("arousal",), ("action_units", "valence"))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


every_model = pytest.mark.parametrize("names", MODELS, ids="-".join)
Names = tuple[str, str, str]


@pytest.mark.parametrize(
    ("names", "tasks"),
    [(names, tasks) for *names, tasks in covering(ENCODERS, HEADS, FRAMEWORKS, SETS, pairs=True)],
)
def test_each_trained_task_has_its_outputs(names: Names, tasks: tuple[str, ...]) -> None:
    if names[2] == "feedback" and len(tasks) < len(TASKS):
        with pytest.raises(InputError, match="is not trained"):
            model(config(*names), tasks)
        return
    network = model(config(*names), tasks)
    x, valid = inputs(LENGTHS)
    outputs, _ = network(x, valid, None)
    assert tuple(outputs) == tasks
    assert all(outputs[task].shape == (*valid.shape, TASKS[task].width) for task in tasks)
    assert network.carries_state == ENCODERS[names[0]].carries_state


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_no_real_frame(names: Names, training: bool) -> None:
    network = model(config(*names)).train(training)
    x, valid = inputs(LENGTHS)
    whole, _ = network(x, valid, None)
    for lane, length in enumerate(LENGTHS):
        alone, _ = network(x[lane : lane + 1, :length], valid[lane : lane + 1, :length], None)
        for task in TASKS:
            torch.testing.assert_close(
                whole[task][lane, :length], alone[task][0], atol=TOLERANCE, rtol=0
            )


@every_model
def test_padding_changes_no_gradient(names: Names) -> None:
    """One padded batch has the same gradients as its windows one by one."""
    x, valid = inputs(LENGTHS)
    together, apart = model(config(*names)), model(config(*names))
    outputs, _ = together(x, valid, None)
    sum(values[valid].square().sum() for values in outputs.values()).backward()
    for lane, length in enumerate(LENGTHS):
        outputs, _ = apart(x[lane : lane + 1, :length], valid[lane : lane + 1, :length], None)
        sum(values.square().sum() for values in outputs.values()).backward()
    for one, other in zip(gradients(together), gradients(apart), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


SEEDS = range(4)
"""Seeds of several models, because in one of them all six ReLU units of a head may be 0."""


@cache
def gradients_of(names: Names, task: str) -> tuple[torch.Tensor, dict[str, bool]]:
    """Return the gradients of a task's outputs, over models of all seeds.

    Returns:
        The sum of the gradients of the features; and by parameter, True if any of the models gives
        it a gradient other than zero.
    """
    x, valid = inputs(LENGTHS)
    x.requires_grad_()
    moved: dict[str, bool] = {}
    for seed in SEEDS:
        network = model(config(*names), seed=seed)
        network(x, valid, None)[0][task][valid].square().sum().backward()
        for name, parameter in network.named_parameters():
            has_gradient = parameter.grad is not None and bool(parameter.grad.any())
            moved[name] = moved.get(name, False) or has_gradient
    assert x.grad is not None
    return x.grad[valid], moved


@every_model
def test_every_task_reaches_the_features(names: Names) -> None:
    for task in TASKS:
        of_features, _ = gradients_of(names, task)
        assert of_features.any(dim=-1).all()


@every_model
def test_models_are_built_without_memory_on_the_meta_device(names: Names) -> None:
    with torch.device("meta"):
        network = build_model(config(*names), WIDTH, tuple(TASKS))
    assert {p.device.type for p in network.parameters()} == {"meta"}
    count = sum(p.numel() for p in model(config(*names)).parameters())
    assert sum(p.numel() for p in network.parameters()) == count


@every_model
def test_every_task_trains_each_shared_layer(names: Names) -> None:
    for task in TASKS:
        _, moved = gradients_of(names, task)
        for part in model(config(*names)).shared:
            own = [name for name in moved if name.startswith(f"{part}.")]
            assert own, f"{task} does not reach {part}"
            assert all(moved[name] for name in own), f"{task} does not train all of {part}"


@every_model
def test_exactly_one_task_trains_each_parameter_that_is_not_shared(names: Names) -> None:
    network = model(config(*names))
    for name, _ in network.named_parameters():
        tasks = [task for task in TASKS if gradients_of(names, task)[1][name]]
        assert len(tasks) == (len(TASKS) if name.split(".")[0] in network.shared else 1), name


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("encoder", STATEFUL_ENCODERS)
@pytest.mark.parametrize("cuts", [(1, 2, 3), (3, 3)])
def test_windows_with_carried_states_equal_the_whole(
    encoder: str, framework: str, cuts: tuple[int, ...]
) -> None:
    network = model(config(encoder, "mlp", framework))
    x, valid = inputs((6, 6))
    whole, _ = network(x, valid, None)
    states: States = {}
    found: dict[str, list[torch.Tensor]] = {task: [] for task in TASKS}
    for window, mask in zip(x.split(cuts, dim=1), valid.split(cuts, dim=1), strict=True):
        outputs, states = network(window, mask, states)
        for task in TASKS:
            found[task].append(outputs[task])
    for task in TASKS:
        close(torch.cat(found[task], dim=1), whole[task])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_shared_bottom_under_one_task_is_the_encoder_cut_in_two(encoder: str) -> None:
    whole = model(config(encoder, encoder={"layers": 3}), ("arousal",)).eval()
    cut = config(encoder, "linear", "share_bottom", encoder={"layers": 2})
    halves = model(cut, ("arousal",), seed=1).eval()
    weights = {}
    for name, value in whole.state_dict().items():
        weights[name.replace("encoder.", "bottom.", 1)] = value
    for layer in (1, 2):
        for old in [name for name in weights if f"_l{layer}" in name or f"layers.{layer}." in name]:
            new = old.replace("bottom.", "tops.arousal.", 1)
            new = new.replace(f"_l{layer}", f"_l{layer - 1}")
            weights[new.replace(f"layers.{layer}.", f"layers.{layer - 1}.")] = weights.pop(old)
    halves.load_state_dict(weights)
    x, valid = inputs(LENGTHS)
    close(halves(x, valid, None)[0]["arousal"][valid], whole(x, valid, None)[0]["arousal"][valid])


def test_single_tasks_in_one_model_are_those_trained_alone() -> None:
    together = model(config("gru", "mlp", "single_task")).eval()
    x, valid = inputs(LENGTHS)
    outputs, _ = together(x, valid, None)
    for task in TASKS:
        alone = model(config("gru", "mlp", "single_task"), (task,), seed=1).eval()
        own = {k: v for k, v in together.state_dict().items() if f".{task}." in k}
        alone.load_state_dict(own)
        assert torch.equal(alone(x, valid, None)[0][task], outputs[task])


PARAMETERS = {
    ("gru", "linear"): 45_206,
    ("gru", "mlp"): 61_846,
    ("lstm", "linear"): 26_518,
    ("lstm", "mlp"): 43_158,
    ("transformer", "linear"): 70_486,
    ("transformer", "mlp"): 87_126,
}
"""Number of parameters with 32 features and the settings of the shipped YAML files."""


@pytest.mark.parametrize(("encoder", "head"), PARAMETERS)
def test_golden_parameter_counts(encoder: str, head: str) -> None:
    groups = {"encoder": encoder, "head": head, "framework": "share_encoder"}
    parts = {
        group: yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text())
        for group, name in groups.items()
    }
    trial = read_config({**config().plain(), **parts})
    network = build_model(trial, 32, tuple(TASKS))
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[encoder, head]


def test_a_named_device_and_precision_are_used() -> None:
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    found = [choose_precision(name, cpu) for name in ("auto", "float32", "bfloat16", "float16")]
    assert found == [torch.float32, torch.float32, torch.bfloat16, torch.float16]


def test_the_zoo_builds_each_pair_of_parts() -> None:
    assert len(MODELS) == len(set(MODELS))
    axes = (ENCODERS, HEADS, FRAMEWORKS)
    for one, other in combinations(range(len(axes)), 2):
        assert {(names[one], names[other]) for names in MODELS} == set(
            product(axes[one], axes[other])
        )
