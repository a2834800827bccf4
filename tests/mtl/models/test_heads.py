import pytest
import torch
from torch import nn

from mtl.models.heads import HEADS, MLP, Head, Linear
from mtl.tasks import TASKS, Task
from tests.support.laws import TOLERANCE, parameters

HIDDEN = 8

every_head = pytest.mark.parametrize("name", HEADS)


def make(name: str, outputs: int = 3, **changes: object) -> Head:
    torch.manual_seed(0)
    return HEADS[name](HIDDEN, outputs, **parameters("head", name, **changes))


def hidden(batch: int = 2, frames: int = 5) -> torch.Tensor:
    return torch.randn(batch, frames, HIDDEN, generator=torch.Generator().manual_seed(1))


@every_head
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_each_frame_gets_the_task_s_outputs(name: str, task: Task) -> None:
    assert make(name, task.width)(hidden()).shape == (2, 5, task.width)


@every_head
def test_a_frame_s_output_is_that_of_the_frame_alone(name: str) -> None:
    head, h = make(name), hidden()
    whole = head(h)
    for lane in range(2):
        for frame in range(5):
            alone = head(h[lane : lane + 1, frame : frame + 1])[0, 0]
            torch.testing.assert_close(whole[lane, frame], alone, atol=TOLERANCE, rtol=0)


@every_head
def test_outputs_are_the_output_layer_of_the_trunk(name: str) -> None:
    head, h = make(name), hidden()
    assert torch.equal(head.output(head.trunk(h)), head(h))


@every_head
def test_dropout_acts_in_training_only(name: str) -> None:
    head, h = make(name, dropout=0.5), hidden()
    assert not torch.equal(head(h), head(h))
    head.eval()
    assert torch.equal(head(h), head(h))


@every_head
def test_every_parameter_has_a_gradient(name: str) -> None:
    head = make(name)
    head(hidden()).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("widths", [(), (6,), (6, 4)])
def test_mlp_is_linear_and_relu_for_each_width(widths: tuple[int, ...]) -> None:
    head, h = MLP(HIDDEN, 3, widths=widths, dropout=0.0), hidden()
    x = h
    for layer in head.trunk:
        if isinstance(layer, nn.Linear):
            x = torch.clamp(x @ layer.weight.T + layer.bias, min=0)
    expected = x @ head.output.weight.T + head.output.bias
    assert [m.out_features for m in head.trunk if isinstance(m, nn.Linear)] == list(widths)
    torch.testing.assert_close(head(h), expected, atol=TOLERANCE, rtol=0)


def test_linear_is_one_matrix() -> None:
    head, h = Linear(HIDDEN, 3, dropout=0.0), hidden()
    assert sum(p.numel() for p in head.parameters()) == 3 * HIDDEN + 3
    expected = h @ head.output.weight.T + head.output.bias
    torch.testing.assert_close(head(h), expected, atol=TOLERANCE, rtol=0)
