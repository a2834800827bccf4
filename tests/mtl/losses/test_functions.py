import numpy as np
import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor
from torch.nn import functional

from mtl.losses.functions import CCC, LOSSES, Loss
from mtl.tasks import TASKS, Kind, Task
from tests.support.laws import LOSS_NAMES

FRAMES = 12
WRONG = (-5.0, -1.0, 99.0, float("nan"), float("inf"))


def make(kind: Kind, name: str) -> tuple[Loss, Task]:
    task = next(task for task in TASKS.values() if task.kind == kind)
    return LOSSES[kind][name](prior(task)), task


def prior(task: Task) -> Tensor:
    """Return different frequencies of the classes or units of a task."""
    shares = torch.arange(1, task.width + 1) / (task.width + 1)
    return shares / shares.sum() if task.kind == "multiclass" else shares


def case(kind: Kind, frames: int = FRAMES, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs, labels and a mask where about half of the labels are known."""
    task = next(task for task in TASKS.values() if task.kind == kind)
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(frames, task.width, generator=generator)
    shape = (frames, task.labels.stop - task.labels.start)
    high = {"regression": 1, "multiclass": task.width, "multilabel": 2}[kind]
    labels = torch.randint(0, high, shape, generator=generator).float()
    if kind == "regression":
        labels = torch.rand(shape, generator=generator) * 2 - 1
    return outputs, labels, torch.rand(shape, generator=generator) < 0.5


def loss_and_gradient(
    loss: Loss, outputs: Tensor, labels: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    outputs = outputs.clone().requires_grad_()
    value = loss.value(loss.sums(outputs, labels, mask))
    (gradient,) = torch.autograd.grad(value, outputs)
    return value.detach(), gradient


@pytest.mark.parametrize(("kind", "name"), LOSS_NAMES)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_missing_label_changes_nothing(kind: Kind, name: str, wrong: float) -> None:
    loss, _ = make(kind, name)
    outputs, labels, mask = case(kind)
    expected = loss_and_gradient(loss, outputs, labels * mask, mask)
    found = loss_and_gradient(loss, outputs, labels.masked_fill(~mask, wrong), mask)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize(("kind", "name"), LOSS_NAMES)
def test_removing_frames_without_labels_changes_nothing(kind: Kind, name: str) -> None:
    loss, _ = make(kind, name)
    outputs, labels, mask = case(kind)
    mask[5:] = False
    value, gradient = loss_and_gradient(loss, outputs, labels, mask)
    fewer, smaller = loss_and_gradient(loss, outputs[:5], labels[:5], mask[:5])
    torch.testing.assert_close(value, fewer)
    torch.testing.assert_close(gradient[:5], smaller)
    assert not gradient[5:].any()


@pytest.mark.parametrize(("kind", "name"), LOSS_NAMES)
def test_a_known_label_changes_loss_and_gradient(kind: Kind, name: str) -> None:
    loss, _ = make(kind, name)
    outputs, labels, mask = case(kind)
    mask[0] = True
    changed = labels.clone()
    changed[0] = 1 - labels[0] if kind != "multiclass" else (labels[0] + 1) % 8
    one = loss_and_gradient(loss, outputs, labels, mask)
    other = loss_and_gradient(loss, outputs, changed, mask)
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


@pytest.mark.parametrize("frames", [0, FRAMES])
@pytest.mark.parametrize(("kind", "name"), LOSS_NAMES)
def test_a_batch_without_labels_has_loss_and_gradient_zero(
    kind: Kind, name: str, frames: int
) -> None:
    loss, _ = make(kind, name)
    outputs, labels, mask = (t[:frames] for t in case(kind))
    value, gradient = loss_and_gradient(loss, outputs, labels, torch.zeros_like(mask))
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(outputs))


@pytest.mark.parametrize(("kind", "name"), LOSS_NAMES)
@pytest.mark.parametrize("cut", [0, 1, 5])
def test_sums_of_parts_add_up_to_the_whole(kind: Kind, name: str, cut: int) -> None:
    loss, _ = make(kind, name)
    outputs, labels, mask = case(kind)
    expected, gradient = loss_and_gradient(loss, outputs, labels, mask)
    outputs.requires_grad_()
    parts = [loss.sums(outputs[s], labels[s], mask[s]) for s in (slice(cut), slice(cut, None))]
    whole = loss.sums(outputs, labels, mask)
    torch.testing.assert_close(parts[0] + parts[1], whole)
    value = loss.value(parts[0] + parts[1])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, outputs)[0], gradient)


@pytest.mark.parametrize(("kind", "name"), LOSS_NAMES)
def test_one_frame_has_finite_loss_and_gradient(kind: Kind, name: str) -> None:
    loss, _ = make(kind, name)
    outputs, labels, _ = case(kind, 1)
    value, gradient = loss_and_gradient(loss, outputs, labels, torch.ones_like(labels).bool())
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("kind", "name"), LOSS_NAMES)
def test_better_outputs_have_a_lower_loss(kind: Kind, name: str) -> None:
    loss, task = make(kind, name)
    outputs, labels, mask = case(kind)
    truth = labels
    if kind == "multiclass":
        truth = functional.one_hot(labels[:, 0].long(), task.width).float()
    better = outputs.lerp(truth if kind == "regression" else 8 * truth - 4, 0.5)
    assert loss.value(loss.sums(better, labels, mask)) < loss.value(
        loss.sums(outputs, labels, mask)
    )


CLASSES, UNITS_PRIOR = prior(TASKS["expression"]), prior(TASKS["action_units"])


def focal(o: Tensor, t: Tensor, m: Tensor) -> Tensor:
    p = o.softmax(dim=1)[m[:, 0]].gather(1, t[m].long()[:, None])[:, 0]
    return ((1 - p) ** 2 * -p.log()).mean()


def positives(m: Tensor) -> Tensor:
    return ((1 - UNITS_PRIOR) / UNITS_PRIOR).expand_as(m)[m]


REFERENCES = {
    "mse": lambda o, t, m: functional.mse_loss(o[m], t[m]),
    "cross_entropy": lambda o, t, m: functional.cross_entropy(o[m[:, 0]], t[m].long()),
    "weighted_cross_entropy": lambda o, t, m: functional.cross_entropy(
        o[m[:, 0]], t[m].long(), weight=1 / CLASSES
    ),
    "focal": focal,
    "logit_adjusted": lambda o, t, m: functional.cross_entropy(
        o[m[:, 0]] + CLASSES.log(), t[m].long()
    ),
    "binary_cross_entropy": lambda o, t, m: functional.binary_cross_entropy_with_logits(o[m], t[m]),
    "weighted_binary_cross_entropy": lambda o, t, m: functional.binary_cross_entropy_with_logits(
        o[m], t[m], pos_weight=positives(m)
    ),
    "asymmetric": lambda o, t, m: AsymmetricLossMultiLabel(
        gamma_neg=4, gamma_pos=0, clip=0.05, reduction="mean"
    )(o[m], t[m]),
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name in LOSS_NAMES if name != "ccc"]
)
def test_mean_losses_equal_torch_and_timm_on_labelled_frames(kind: Kind, name: str) -> None:
    loss, _ = make(kind, name)
    outputs, labels, mask = case(kind)
    value, gradient = loss_and_gradient(loss, outputs, labels, mask)
    outputs.requires_grad_()
    expected = REFERENCES[name](outputs, labels, mask)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, outputs)[0])


def plain_ccc(x: np.ndarray, y: np.ndarray) -> float:
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return float(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


@pytest.mark.parametrize("shift", [0.0, 0.9, 50.0])
def test_ccc_equals_plain_numpy(shift: float) -> None:
    outputs, labels, mask = case("regression", 200)
    outputs += shift
    expected = 1 - plain_ccc(outputs[mask].double().numpy(), labels[mask].double().numpy())
    loss = CCC(torch.zeros(1))
    assert loss.value(loss.sums(outputs, labels, mask)).item() == pytest.approx(expected, abs=1e-9)


def test_ccc_s_gradient_is_its_derivative() -> None:
    outputs, labels, mask = case("regression")
    loss = CCC(torch.zeros(1))
    assert torch.autograd.gradcheck(
        lambda x: loss.value(loss.sums(x, labels.double(), mask)),
        outputs.double().requires_grad_(),
    )


@pytest.mark.parametrize(("outputs", "labels"), [(0.5, 0.5), (0.0, 0.3), (1.0, -1.0)])
def test_ccc_of_constants_is_one_and_finite(outputs: float, labels: float) -> None:
    """Constants have no correlation, even if they are equal."""
    x, y = torch.full((FRAMES, 1), outputs), torch.full((FRAMES, 1), labels)
    value, gradient = loss_and_gradient(CCC(torch.zeros(1)), x, y, torch.ones(FRAMES, 1).bool())
    assert value.item() == pytest.approx(1, abs=1e-6)
    assert gradient.isfinite().all()


GOLDEN = {
    "mse": 0.68,
    "ccc": 0.6296296,
    "cross_entropy": 2.3600794,
    "binary_cross_entropy": 0.4122747,
}


def fixed_input(task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs, labels and mask of three frames, the second without a label."""
    outputs = torch.linspace(-1, 1, 3 * task.width).reshape(3, task.width)
    labels = torch.zeros(3, task.labels.stop - task.labels.start)
    labels[2] = 1 if task.kind != "regression" else 0.4
    mask = torch.ones_like(labels).bool()
    mask[1] = False
    return outputs, labels, mask


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name in LOSS_NAMES if name in GOLDEN]
)
def test_golden_values(kind: Kind, name: str) -> None:
    loss, task = make(kind, name)
    value = loss.value(loss.sums(*fixed_input(task)))
    assert value.item() == pytest.approx(GOLDEN[name], abs=1e-6)


NEUTRAL = {
    ("multiclass", "weighted_cross_entropy"): ("cross_entropy", {"power": 0.0}),
    ("multiclass", "focal"): ("cross_entropy", {"gamma": 0.0}),
    ("multiclass", "logit_adjusted"): ("cross_entropy", {"tau": 0.0}),
    ("multilabel", "weighted_binary_cross_entropy"): ("binary_cross_entropy", {"power": 0.0}),
    ("multilabel", "asymmetric"): (
        "binary_cross_entropy",
        {"gamma_negative": 0.0, "gamma_positive": 0.0, "clip": 0.0},
    ),
}


@pytest.mark.parametrize(("kind", "name"), NEUTRAL)
def test_a_loss_with_neutral_parameters_equals_the_plain_loss(kind: Kind, name: str) -> None:
    plain, neutral = NEUTRAL[kind, name]
    task = next(task for task in TASKS.values() if task.kind == kind)
    found = loss_and_gradient(LOSSES[kind][name](prior(task), **neutral), *case(kind))
    expected = loss_and_gradient(make(kind, plain)[0], *case(kind))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize(("kind", "name"), LOSS_NAMES)
def test_large_outputs_keep_loss_and_gradient_finite(
    kind: Kind, name: str, exponent: float
) -> None:
    task = next(task for task in TASKS.values() if task.kind == kind)
    exponents = {"focal": ["gamma"], "asymmetric": ["gamma_negative", "gamma_positive"]}
    loss = LOSSES[kind][name](prior(task), **dict.fromkeys(exponents.get(name, []), exponent))
    outputs, labels, mask = case(kind)
    value, gradient = loss_and_gradient(loss, outputs * 1000, labels, mask)
    assert value.isfinite()
    assert gradient.isfinite().all()
