import pytest
import torch
from laws import parameters
from torch import Tensor, nn

from mtl.tasks import TASKS
from mtl.weighting import BALANCINGS, Fixed

VALUES = dict(zip(TASKS, (0.4, 0.7, 2.1, 0.6), strict=True))

every_balancing = pytest.mark.parametrize("name", BALANCINGS)


def make(name: str) -> nn.Module:
    return BALANCINGS[name](**parameters("balancing", name))


def losses(*tasks: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {task: torch.tensor(VALUES[task], dtype=dtype).requires_grad_() for task in tasks}


@every_balancing
@pytest.mark.parametrize("tasks", [tuple(TASKS), ("arousal",), ("action_units", "valence")])
def test_every_task_counts(name: str, tasks: tuple[str, ...]) -> None:
    given = losses(*tasks)
    total = make(name)(given)
    assert total.shape == ()
    total.backward()
    assert all(loss.grad is not None and loss.grad > 0 for loss in given.values())


@every_balancing
def test_losses_of_zero_do_no_harm(name: str) -> None:
    """A batch may hold no label of any task."""
    given = {task: torch.zeros((), requires_grad=True) for task in TASKS}
    balancing = make(name)
    total = balancing(given)
    total.backward()
    assert total.isfinite()
    assert all(loss.grad is not None and loss.grad.isfinite() for loss in given.values())


@every_balancing
def test_losses_of_two_precisions_are_added(name: str) -> None:
    """1 - CCC comes in double precision."""
    given = losses("valence", dtype=torch.float64) | losses("expression")
    make(name)(given).backward()
    assert given["valence"].grad is not None
    assert given["valence"].grad.dtype is torch.float64


def test_fixed_is_the_weighted_sum() -> None:
    weights = {"valence": 12.0, "arousal": 3.0, "expression": 0.35, "action_units": 0.0}
    given = losses(*TASKS)
    total = Fixed(**weights)(given)
    assert total.item() == pytest.approx(sum(weights[t] * VALUES[t] for t in TASKS))
    total.backward()
    assert [given[t].grad.item() for t in TASKS] == pytest.approx(list(weights.values()))
