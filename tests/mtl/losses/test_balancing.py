import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torchjd import aggregation
from torchjd.autojac import jac_to_grad, mtl_backward

from mtl.losses.balancing import (
    BALANCINGS,
    Balancing,
    DynamicWeightAverage,
    Fixed,
    GradientBalancing,
    Normalised,
    Uncertainty,
)
from mtl.optimisation.distributed import SINGLE_WORKER
from mtl.tasks import TASKS
from tests.support.laws import parameters

VALUES = dict(zip(TASKS, (0.4, 0.7, 2.1, 0.6), strict=True))
SETS = (tuple(TASKS), ("arousal",), ("action_units", "valence"))
GRADIENT_BALANCINGS = tuple(
    name for name, balancing in BALANCINGS.items() if issubclass(balancing, GradientBalancing)
)

every_balancing = pytest.mark.parametrize("name", BALANCINGS)


def make(name: str) -> Balancing:
    return BALANCINGS[name](**parameters("balancing", name))


def backward(
    name: str,
    losses: dict[str, Tensor],
    labelled: dict[str, Tensor],
    shared: Sequence[nn.Parameter],
    scale: float = 1.0,
) -> None:
    """Run the backward pass of a new balancing with losses that are multiplied by ``scale``."""
    rows = SINGLE_WORKER.combine_rows
    make(name).backward(losses, labelled, shared, lambda loss: loss * scale, rows)


def losses(*tasks: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {task: torch.tensor(VALUES[task], dtype=dtype).requires_grad_() for task in tasks}


def labelled(tasks: object, *without: str) -> dict[str, Tensor]:
    return {task: torch.tensor(task not in without) for task in TASKS}


@every_balancing
@pytest.mark.parametrize("tasks", SETS)
def test_every_task_counts(name: str, tasks: tuple[str, ...]) -> None:
    given = losses(*tasks)
    total = make(name)(given, labelled(tasks))
    assert total.shape == ()
    total.backward()
    assert all(loss.grad is not None and loss.grad > 0 for loss in given.values())


@every_balancing
def test_losses_of_zero_do_no_harm(name: str) -> None:
    """All losses of a batch without any label are 0."""
    given = {task: torch.zeros((), requires_grad=True) for task in TASKS}
    balancing = make(name)
    balancing.backward(
        given, labelled(TASKS, *TASKS), [], lambda loss: loss, SINGLE_WORKER.combine_rows
    )
    assert all(loss.grad is not None and loss.grad.isfinite() for loss in given.values())
    assert all(p.grad is None or not p.grad.any() for p in balancing.parameters())


@every_balancing
def test_losses_of_two_precisions_are_added(name: str) -> None:
    """The loss 1 - CCC has double precision, other losses have single precision."""
    given = losses("valence", dtype=torch.float64) | losses("expression")
    make(name)(given, labelled(given)).backward()
    assert given["valence"].grad is not None
    assert given["valence"].grad.dtype is torch.float64


def test_fixed_is_the_weighted_sum() -> None:
    weights = {"valence": 12.0, "arousal": 3.0, "expression": 0.35, "action_units": 0.0}
    given = losses(*TASKS)
    total = Fixed(**weights)(given, labelled(TASKS))
    assert total.item() == pytest.approx(sum(weights[t] * VALUES[t] for t in TASKS))
    total.backward()
    assert [given[t].grad.item() for t in TASKS] == pytest.approx(list(weights.values()))


def test_normalised_gradients_have_the_size_of_the_weights() -> None:
    weights = {"valence": 12.0, "arousal": 3.0, "expression": 0.35, "action_units": 0.0}
    given = losses(*TASKS)
    Normalised(**weights)(given, labelled(TASKS)).backward()
    sizes = [given[t].grad.item() * VALUES[t] for t in TASKS]
    assert sizes == pytest.approx(list(weights.values()))


def test_uncertainty_is_kendall_s_and_leaves_unlabelled_tasks_alone() -> None:
    balancing, given = Uncertainty(), losses(*TASKS)
    with torch.no_grad():
        for number, s in enumerate(balancing.log_variance.values()):
            s.fill_(0.3 * number - 0.4)
    s = {task: value.item() for task, value in balancing.log_variance.items()}
    total = balancing(given, labelled(TASKS, "arousal"))
    known = [t for t in TASKS if t != "arousal"]
    assert total.item() == pytest.approx(sum(math.exp(-s[t]) * VALUES[t] + s[t] for t in known))
    total.backward()
    for task in TASKS:
        expected = 0.0 if task == "arousal" else 1 - math.exp(-s[task]) * VALUES[task]
        assert balancing.log_variance[task].grad.item() == pytest.approx(expected, abs=1e-6)


def test_uncertainty_s_weights_stay_positive_whatever_is_learnt() -> None:
    balancing = Uncertainty()
    optimizer = torch.optim.SGD(balancing.parameters(), lr=5.0)
    for loss in (1e3, 0.0, 1e-3) * 5:
        given = {task: torch.tensor(loss, requires_grad=True) for task in TASKS}
        optimizer.zero_grad()
        balancing(given, labelled(TASKS)).backward()
        assert all(x.grad is not None and x.grad.isfinite() and x.grad >= 0 for x in given.values())
        optimizer.step()


def test_dynamic_weight_average_follows_its_history() -> None:
    balancing, tasks = DynamicWeightAverage(temperature=2.0), ("valence", "expression")
    history = [{"valence": 1.0, "expression": 2.0}]
    for epochs in ([], history):
        balancing.begin_epoch(epochs)
        given = losses(*tasks)
        balancing(given, labelled(tasks)).backward()
        assert [given[t].grad.item() for t in tasks] == [1.0, 1.0]
    balancing.begin_epoch([*history, {"valence": 0.5, "expression": 1.9}])
    given = losses(*tasks)
    balancing(given, labelled(tasks)).backward()
    powers = [math.exp(0.5 / 2), math.exp(0.95 / 2)]
    expected = [2 * power / sum(powers) for power in powers]
    assert [given[t].grad.item() for t in tasks] == pytest.approx(expected)
    assert expected[1] > 1 > expected[0]


class Small(nn.Module):
    """Network with a shared layer and the heads of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        self.heads = nn.ModuleDict({"valence": nn.Linear(5, 1), "arousal": nn.Linear(5, 1)})

    def losses(self) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        h = self.shared(torch.randn(7, 4, generator=generator))
        y = torch.randn(2, 7, 1, generator=generator)
        return h, {
            t: (head(h) - y[i]).square().mean() for i, (t, head) in enumerate(self.heads.items())
        }


def gradients(fill: Callable[[Small], None]) -> list[Tensor]:
    network = Small()
    torch.manual_seed(5)  # PCGrad visits the tasks in random order
    fill(network)
    return [p.grad for p in network.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", GRADIENT_BALANCINGS)
def test_gradients_are_balanced_as_torchjd_does(name: str) -> None:
    kind = {"upgrad": "UPGrad", "pcgrad": "PCGrad", "aligned_mtl": "AlignedMTL"}[name]

    def ours(network: Small) -> None:
        _, given = network.losses()
        backward(name, given, labelled(given), [*network.shared.parameters()])

    def theirs(network: Small) -> None:
        h, given = network.losses()
        mtl_backward(list(given.values()), features=h)
        jac_to_grad(network.shared.parameters(), getattr(aggregation, kind)())

    for one, other in zip(gradients(ours), gradients(theirs), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", GRADIENT_BALANCINGS)
@pytest.mark.parametrize("scale", [torch.inf, torch.nan])
def test_gradients_that_overflow_stay_non_finite(name: str, scale: float) -> None:
    """The gradient scaler must detect the overflow to skip the step and lower its scale."""
    network = Small()
    _, given = network.losses()
    given["expression"] = given["valence"] * 2  # aggregators fail with three tasks or more
    shared = [*network.shared.parameters()]
    backward(name, given, labelled(given), shared, scale)
    assert not any(p.grad.isfinite().any() for p in shared)


@pytest.mark.parametrize("name", GRADIENT_BALANCINGS)
def test_a_task_without_a_label_does_not_change_the_shared_gradient(name: str) -> None:
    def both(network: Small) -> None:
        _, given = network.losses()
        given["arousal"] = given["arousal"] * 0
        backward(name, given, labelled(given, "arousal"), [*network.shared.parameters()])

    def alone(network: Small) -> None:
        network.losses()[1]["valence"].backward()
        for p in network.heads["arousal"].parameters():
            p.grad = torch.zeros_like(p)

    for one, other in zip(gradients(both), gradients(alone), strict=True):
        torch.testing.assert_close(one, other)
