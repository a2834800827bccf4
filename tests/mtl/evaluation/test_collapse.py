"""Output spread: golden values, laws, and the rule of two epochs in a row."""

import numpy as np
import pytest

from mtl.evaluation.collapse import COLLAPSED_SPREAD, OutputSpread, is_collapsed
from mtl.tasks import EXPRESSION, TASKS, UNITS, VALENCE, Task

ALL = list(TASKS.values())
FRAMES = 60


def a_name(task: Task) -> str:
    return task.name


def output_spread(
    task: Task, outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> float | None:
    return OutputSpread(task, labels, mask).of(outputs)


def rows(task: Task, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return outputs, labels and a mask in which two of five labels are missing."""
    random = np.random.default_rng(seed)
    outputs = random.random((FRAMES, task.width)).astype(np.float32)
    shape = (FRAMES, len(task.columns))
    if task.kind == "regression":
        labels = random.uniform(-1, 1, shape)
    else:
        labels = random.integers(0, 8 if task.kind == "multiclass" else 2, shape)
    return outputs, labels.astype(np.float32), random.random(shape) < 0.6


def perfect(task: Task, labels: np.ndarray) -> np.ndarray:
    """Return the outputs that equal the labels."""
    if task.kind != "multiclass":
        return labels
    return np.asarray(np.eye(task.width, dtype=np.float32)[labels[:, 0].astype(int)])


def test_golden_value_of_a_regression_task() -> None:
    labels = np.array([[-1.0], [1.0], [0.5]])
    outputs = np.array([[0.1], [0.3], [9.0]])
    mask = np.array([[True], [True], [False]])
    assert output_spread(VALENCE, outputs, labels, mask) == pytest.approx(0.1, abs=1e-12)


def test_golden_value_of_a_multiclass_task() -> None:
    """One-hot labels of two equally frequent classes have the variance 1/4 + 1/4."""
    labels = np.array([[0.0], [0.0], [3.0], [3.0]])
    outputs = np.zeros((4, 8))
    outputs[:, 5] = [0.2, 0.4, 0.2, 0.4]
    spread = output_spread(EXPRESSION, outputs, labels, np.ones((4, 1), bool))
    assert spread == pytest.approx(0.1 / np.sqrt(0.5), abs=1e-12)


def test_golden_value_of_a_multilabel_task_with_labels_in_two_columns() -> None:
    labels, mask = np.zeros((2, 12)), np.zeros((2, 12), bool)
    mask[:, [1, 4]] = True
    labels[1, [1, 4]] = 1
    outputs = np.full((2, 12), 0.5)
    outputs[1, [0, 1]] = [1.0, 0.9]  # the first column has no label
    assert output_spread(UNITS, outputs, labels, mask) == pytest.approx(0.4 / np.sqrt(2), abs=1e-12)


@pytest.mark.parametrize("task", ALL, ids=a_name)
def test_constant_outputs_have_the_spread_0_and_perfect_outputs_1(task: Task) -> None:
    _, labels, mask = rows(task)
    constant = np.full((FRAMES, task.width), 0.1, np.float32)
    assert output_spread(task, constant, labels, mask) == 0
    assert output_spread(task, perfect(task, labels), labels, mask) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("task", ALL, ids=a_name)
def test_frames_without_a_label_change_nothing(task: Task) -> None:
    outputs, labels, mask = rows(task)
    spread = output_spread(task, outputs, labels, mask)
    hidden = ~np.broadcast_to(mask, outputs.shape)
    changed = np.where(hidden, np.float32(7), outputs)
    relabelled = np.where(mask, labels, np.float32(-5))
    assert output_spread(task, changed, relabelled, mask) == spread
    longer = [np.concatenate([part, part[:9]]) for part in (outputs, labels, mask)]
    longer[2][FRAMES:] = False
    assert output_spread(task, *longer) == spread


@pytest.mark.parametrize("task", ALL, ids=a_name)
def test_the_spread_is_proportional_to_the_outputs_and_ignores_their_mean(task: Task) -> None:
    outputs, labels, mask = rows(task)
    spread = output_spread(task, outputs.astype(float), labels, mask)
    assert spread is not None
    assert spread > 0.1
    scaled = output_spread(task, 0.25 * outputs.astype(float) - 3, labels, mask)
    assert scaled == pytest.approx(spread / 4, rel=1e-9)


@pytest.mark.parametrize("task", ALL, ids=a_name)
def test_constant_or_missing_labels_give_no_spread(task: Task) -> None:
    outputs, labels, mask = rows(task)
    constant = np.full_like(labels, 0.3 if task.kind == "regression" else 1)
    assert output_spread(task, outputs, constant, mask) is None
    assert output_spread(task, outputs, labels, np.zeros_like(mask)) is None


def test_a_task_has_collapsed_if_two_epochs_in_a_row_lie_below_the_limit() -> None:
    below, above = COLLAPSED_SPREAD * 0.99, COLLAPSED_SPREAD
    assert is_collapsed(below, 0.0)
    for pair in ((below, above), (above, below), (None, 0.0), (0.0, None), (None, None)):
        assert not is_collapsed(*pair)
