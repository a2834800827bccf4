from itertools import product

import pytest
import torch
import yaml
from laws import CONFIGS, MODELS, TOLERANCE, WIDTH, config, gradients, inputs, model

from mtl.config import read_config
from mtl.encoders import ENCODERS
from mtl.model import build_model, choose_device, choose_precision
from mtl.tasks import TASKS

LENGTHS = (6, 3, 1, 5)
SETS = (tuple(TASKS), ("arousal",), ("action_units", "valence"))

every_model = pytest.mark.parametrize("names", MODELS, ids="-".join)
Names = tuple[str, str, str]


@every_model
@pytest.mark.parametrize("tasks", SETS)
def test_each_trained_task_has_its_outputs(names: Names, tasks: tuple[str, ...]) -> None:
    network = model(config(*names), tasks)
    x, real = inputs(LENGTHS)
    outputs, _ = network(x, real, None)
    assert tuple(outputs) == tasks
    assert all(outputs[task].shape == (*real.shape, TASKS[task].width) for task in tasks)
    assert network.carries == ENCODERS[names[0]].carries


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_padding_changes_no_real_frame(names: Names, training: bool) -> None:
    network = model(config(*names)).train(training)
    x, real = inputs(LENGTHS)
    whole, _ = network(x, real, None)
    for lane, length in enumerate(LENGTHS):
        alone, _ = network(x[lane : lane + 1, :length], real[lane : lane + 1, :length], None)
        for task in TASKS:
            torch.testing.assert_close(
                whole[task][lane, :length], alone[task][0], atol=TOLERANCE, rtol=0
            )


@every_model
def test_padding_changes_no_gradient(names: Names) -> None:
    """One padded batch, or each window alone."""
    x, real = inputs(LENGTHS)
    together, apart = model(config(*names)), model(config(*names))
    outputs, _ = together(x, real, None)
    sum(values[real].square().sum() for values in outputs.values()).backward()
    for lane, length in enumerate(LENGTHS):
        outputs, _ = apart(x[lane : lane + 1, :length], real[lane : lane + 1, :length], None)
        sum(values.square().sum() for values in outputs.values()).backward()
    for one, other in zip(gradients(together), gradients(apart), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@every_model
def test_every_task_reaches_the_encoder(names: Names) -> None:
    for task in TASKS:
        network = model(config(*names))
        x, real = inputs(LENGTHS)
        x.requires_grad_()
        network(x, real, None)[0][task][real].square().sum().backward()
        assert x.grad is not None
        assert x.grad[real].any(dim=-1).all()


@every_model
def test_models_are_built_without_memory_on_the_meta_device(names: Names) -> None:
    with torch.device("meta"):
        network = build_model(config(*names), WIDTH, tuple(TASKS))
    assert {p.device.type for p in network.parameters()} == {"meta"}
    count = sum(p.numel() for p in model(config(*names)).parameters())
    assert sum(p.numel() for p in network.parameters()) == count


PARAMETERS = {
    ("gru", "linear"): 45_206,
    ("gru", "mlp"): 61_846,
    ("lstm", "linear"): 26_518,
    ("lstm", "mlp"): 43_158,
    ("transformer", "linear"): 70_486,
    ("transformer", "mlp"): 87_126,
}
"""With 32 features and everything as the YAML has it."""


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


def test_device_and_precision_that_are_named_are_taken() -> None:
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    found = [choose_precision(name, cpu) for name in ("auto", "float32", "bfloat16", "float16")]
    assert found == [torch.float32, torch.float32, torch.bfloat16, torch.float16]


def test_the_zoo_builds_every_combination() -> None:
    assert len(MODELS) == len(set(MODELS)) >= len(tuple(product(ENCODERS, ("linear", "mlp"))))
