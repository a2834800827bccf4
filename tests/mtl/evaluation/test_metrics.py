"""Scores equal scikit-learn's and a plain CCC, sums add up, missing labels have no effect."""

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mtl.evaluation.metrics import (
    combine,
    scores,
    task_score,
    task_scores,
    task_sums,
    task_sums_by_group,
)
from mtl.tasks import AROUSAL, EXPRESSION, TASKS, UNITS, VALENCE, Task


def rows(frames: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return outputs that correlate with the labels, the labels, and a mask with missing ones."""
    random = np.random.default_rng(seed)
    labels = np.zeros((frames, 15), np.float32)
    labels[:, :2] = random.uniform(-1, 1, (frames, 2))
    labels[:, 2] = random.choice(8, frames, p=[0.3, 0.05, 0.05, 0.05, 0.25, 0.1, 0, 0.2])
    labels[:, 3:] = random.random((frames, 12)) < 0.3
    outputs = random.random((frames, 22)).astype(np.float32)
    outputs[:, :2] += 0.5 * labels[:, :2]
    outputs[np.arange(frames), 2 + labels[:, 2].astype(int)] += 0.3
    mask = random.random((frames, 15)) < 0.6
    return outputs, labels, mask


def parts(task: Task, outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> list[Any]:
    return [outputs[:, task.outputs], labels[:, task.labels], mask[:, task.labels]]


def plain_ccc(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    return float(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))


@pytest.mark.parametrize("task", [VALENCE, AROUSAL], ids=lambda task: task.name)
def test_ccc_equals_the_definition_with_population_variance(task: Task) -> None:
    outputs, labels, mask = parts(task, *rows())
    known = mask[:, 0]
    score = task_score(task, task_sums(task, outputs, labels, mask))
    assert score == pytest.approx(plain_ccc(outputs[known, 0], labels[known, 0]), abs=1e-12)


def test_ccc_golden_value() -> None:
    x, y = np.array([[0.0], [0.5], [1.0]]), np.array([[0.0], [0.0], [1.0]])
    score = task_score(VALENCE, task_sums(VALENCE, x, y, np.ones((3, 1), bool)))
    # 2 * (1/6) / (1/6 + 2/9 + (1/6)^2); with n - 1 it would be 0.8571
    assert score == pytest.approx(0.8, abs=1e-12)


def test_expression_score_is_scikit_learns_macro_f1_over_all_eight_classes() -> None:
    outputs, labels, mask = parts(EXPRESSION, *rows())
    known = mask[:, 0]
    expected = f1_score(
        labels[known, 0],
        outputs[known].argmax(axis=1),
        labels=range(8),
        average="macro",
        zero_division=0,
    )
    score = task_score(EXPRESSION, task_sums(EXPRESSION, outputs, labels, mask))
    assert score == pytest.approx(expected, abs=1e-12)


def test_a_class_neither_predicted_nor_actual_counts_zero() -> None:
    outputs, labels = np.eye(8)[:4], np.arange(4.0)[:, None]
    score = task_score(EXPRESSION, task_sums(EXPRESSION, outputs, labels, np.ones((4, 1), bool)))
    assert score == 0.5


def test_the_score_of_each_unit_is_scikit_learns_binary_f1() -> None:
    outputs, labels, mask = rows()
    per_unit = scores(outputs, labels, mask)["per_unit"]
    outputs, labels, mask = parts(UNITS, outputs, labels, mask)
    expected = [
        f1_score(labels[mask[:, k], k], outputs[mask[:, k], k] >= 0.5, zero_division=0)
        for k in range(12)
    ]
    assert list(per_unit.values()) == pytest.approx(expected, abs=1e-12)
    score = task_score(UNITS, task_sums(UNITS, outputs, labels, mask))
    assert score == pytest.approx(np.mean(expected), abs=1e-12)


def test_units_are_active_from_one_half_and_the_first_of_equal_classes_is_predicted() -> None:
    one = np.ones((1, 12))
    known = np.ones((1, 12), bool)
    assert task_score(UNITS, task_sums(UNITS, 0.5 * one, one, known)) == 1
    below = np.nextafter(0.5, 0) * one
    assert task_score(UNITS, task_sums(UNITS, below, one, known)) == 0
    tie, first = np.full((1, 8), 0.125), np.zeros((1, 1))
    score = task_score(EXPRESSION, task_sums(EXPRESSION, tie, first, np.ones((1, 1), bool)))
    assert score == 1 / 8


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_sums_of_parts_add_up_to_the_sums_of_all_frames(task: Task) -> None:
    whole = parts(task, *rows())
    cut = [task_sums(task, *(part[at] for part in whole)) for at in np.array_split(range(600), 7)]
    np.testing.assert_allclose(sum(cut), task_sums(task, *whole), rtol=1e-12)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_sums_by_group_are_each_groups_sums_and_add_up(task: Task) -> None:
    whole = parts(task, *rows())
    group = np.random.default_rng(1).choice([0, 1, 2, 4], 600)
    by_group = task_sums_by_group(task, *whole, group, 5)
    np.testing.assert_allclose(by_group.sum(axis=0), task_sums(task, *whole), rtol=1e-12)
    second = task_sums(task, *(part[group == 1] for part in whole))
    np.testing.assert_allclose(by_group[1], second, rtol=1e-12)
    assert not by_group[3].any()


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_many_sums_are_scored_at_once(task: Task) -> None:
    group = np.random.default_rng(1).choice([0, 1, 3], 600)
    by_group = task_sums_by_group(task, *parts(task, *rows()), group, 4)
    at_once = task_scores(task, by_group.reshape(2, 2, -1))
    one_by_one = [task_score(task, sums) for sums in by_group]
    assert one_by_one[2] is None
    np.testing.assert_array_equal(at_once.ravel(), np.array(one_by_one, float))


@pytest.mark.parametrize("hidden", [-5.0, -1.0, np.nan, 1e30])
def test_missing_labels_change_nothing(hidden: float) -> None:
    outputs, labels, mask = rows()
    expected = scores(outputs, labels, mask)
    outputs[~mask[:, 0], 0] = hidden
    outputs[~mask[:, 2], 2:10] = hidden
    outputs[:, 10:][~mask[:, 3:]] = hidden
    labels[~mask] = hidden
    assert scores(outputs, labels, mask) == expected
    labels[:, 3] = hidden
    assert scores(outputs, labels, mask) != expected  # labels that are present do change the scores


def test_scores_do_not_depend_on_the_order_of_rows() -> None:
    outputs, labels, mask = rows()
    order = np.random.default_rng(2).permutation(600)
    shuffled = scores(outputs[order], labels[order], mask[order])
    assert shuffled["p_mtl"] == pytest.approx(scores(outputs, labels, mask)["p_mtl"], abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -0.7778, 1 / 3])
@pytest.mark.parametrize("frames", [1, 3, 20_000])
def test_a_constant_scores_zero_without_warning(value: float, frames: int) -> None:
    constant, mask = np.full((frames, 1), value), np.ones((frames, 1), bool)
    varied = np.linspace(-1, 1, frames)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x, y in [(constant, varied), (varied, constant), (constant, constant)]:
            sums = task_sums(VALENCE, x, y, mask) + task_sums(VALENCE, x, y, mask)
            assert task_score(VALENCE, sums) == 0


def test_a_negative_ccc_stays_negative() -> None:
    x, mask = np.linspace(-1, 1, 9)[:, None], np.ones((9, 1), bool)
    score = task_score(VALENCE, task_sums(VALENCE, x, -x, mask))
    assert score == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_without_labels_has_no_score(task: Task) -> None:
    outputs, labels, mask = rows()
    mask[:, task.labels] = False
    found = scores(outputs, labels, mask)
    assert found[f"{task.score}_{task.name}"] is None
    assert found["p_mtl"] is None
    others = {name: found[f"{other.score}_{name}"] for name, other in TASKS.items()}
    assert found["p_labelled"] == combine(others) > 0


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_task_not_predicted_has_no_score(task: Task) -> None:
    outputs, labels, mask = rows()
    outputs[:, task.outputs] = np.nan
    found = scores(outputs, labels, mask)
    assert found[f"{task.score}_{task.name}"] is None
    assert found["p_mtl"] is None
    assert found["p_labelled"] > 0


def test_a_unit_without_labels_is_left_out_of_the_mean() -> None:
    outputs, labels, mask = rows()
    mask[:, 5] = False
    found = scores(outputs, labels, mask)
    assert found["per_unit"]["AU4"] is None
    known = [score for score in found["per_unit"].values() if score is not None]
    assert found["f1_action_units"] == pytest.approx(sum(known) / 11)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_outputs_that_are_partly_not_finite_are_refused(task: Task) -> None:
    outputs, labels, mask = parts(task, *rows())
    mask[0], outputs[0, 0] = True, np.inf
    with pytest.raises(ValueError, match=rf"{task.name}'s \d+ outputs .* 1 are not finite"):
        task_sums(task, outputs, labels, mask)


def test_p_mtl_is_the_challenges_sum() -> None:
    found = scores(*rows())
    ccc = (found["ccc_valence"] + found["ccc_arousal"]) / 2
    assert found["p_mtl"] == pytest.approx(ccc + found["f1_expression"] + found["f1_action_units"])
    assert found["p_labelled"] == found["p_mtl"]
    assert found["frames"] == 600


def test_perfect_predictions_of_all_classes_score_three() -> None:
    _, labels, _ = rows()
    labels[:8, 2] = np.arange(8)
    outputs = np.zeros((600, 22), np.float32)
    outputs[:, :2], outputs[:, 10:] = labels[:, :2], labels[:, 3:]
    outputs[np.arange(600), 2 + labels[:, 2].astype(int)] = 1
    assert scores(outputs, labels, np.ones((600, 15), bool))["p_mtl"] == pytest.approx(3)


def test_no_frames_give_no_scores() -> None:
    found = scores(*rows(frames=0))
    assert found.pop("frames") == 0
    assert set(found.pop("per_class").values()) == set(found.pop("per_unit").values()) == {None}
    assert set(found.values()) == {None}


@pytest.mark.parametrize(
    ("by_task", "expected"),
    [
        ({"valence": 0.4, "arousal": 0.6, "expression": 0.3, "action_units": 0.5}, 1.3),
        ({"valence": 0.4, "arousal": None, "expression": 0.3, "action_units": None}, 0.7),
        ({"arousal": -0.6}, -0.6),
        ({"action_units": 0.5, "expression": 0.25}, 0.75),
        ({"valence": None}, None),
        ({}, None),
    ],
)
def test_combine(by_task: dict[str, float | None], expected: float | None) -> None:
    assert combine(by_task) == (None if expected is None else pytest.approx(expected))
