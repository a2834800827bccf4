"""Tests of ensemble selection against brute force, of its ties and of its baselines."""

import numpy as np
import pytest

from mtl.ensemble.selection import (
    RULES,
    Selection,
    error_correlation,
    fast_decisions,
    forward_order,
    fuse,
    greedy,
    pick_member,
    score_weighted,
    top_k,
)
from mtl.evaluation.metrics import decisions, scores, task_score, task_sums
from mtl.tasks import EXPRESSION, TASKS, UNITS, VALENCE, Task

EACH_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
Case = tuple[np.ndarray, np.ndarray, np.ndarray]


def case(task: Task, members: int = 5, frames: int = 120, seed: int = 0) -> Case:
    """Return outputs of members with different accuracy, labels, and a mask with missing labels."""
    random = np.random.default_rng(seed)
    width = len(task.columns)
    mask = random.random((frames, width)) < 0.7
    if task.kind == "regression":
        labels = random.uniform(-1, 1, (frames, 1))
        truth = labels
    elif task.kind == "multiclass":
        labels = random.integers(0, 8, (frames, 1)).astype(float)
        truth = labels == np.arange(8)
    else:
        labels = (random.random((frames, 12)) < 0.4).astype(float)
        truth = labels
    skill = random.uniform(0.1, 0.3, (members, 1, 1))
    noise = random.random((members, frames, task.width))
    outputs = skill * truth + (1 - skill) * noise
    return outputs.astype(np.float32), labels.astype(np.float32), mask


def score(task: Task, outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> float:
    found = task_score(task, task_sums(task, outputs, labels, mask))
    assert found is not None
    return found


def plain_greedy(
    task: Task, members: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> list[list[float]]:
    """Return the members and scores of greedy selection in 6 steps, computed by brute force."""
    chosen: list[int] = []
    path = []
    for _ in range(6):
        scores = [
            score(task, members[[*chosen, m]].astype(float).mean(axis=0), labels, mask)
            for m in range(len(members))
        ]
        top = max(scores) - 1e-12
        best = min(range(len(members)), key=lambda m: (scores[m] < top, m not in chosen, m))
        chosen.append(best)
        path.append(scores[best])
    kept = next(step for step, value in enumerate(path) if value >= max(path) - 1e-12) + 1
    return [chosen[:kept], path[:kept]]


@EACH_TASK
@pytest.mark.parametrize("seed", range(8))
def test_equals_the_plain_rule(task: Task, seed: int) -> None:
    members, labels, mask = case(task, seed=seed)
    chosen, path = plain_greedy(task, members, labels, mask)
    selection = greedy(task, members, labels, mask, steps=6)
    np.testing.assert_array_equal(selection.fusion_weights, np.bincount(chosen, minlength=5))
    assert selection.path == pytest.approx(path, abs=1e-9)


@EACH_TASK
@pytest.mark.parametrize("seed", range(5))
def test_never_below_the_best_single_and_the_path_ends_at_the_fused_score(
    task: Task, seed: int
) -> None:
    members, labels, mask = case(task, members=9, seed=seed)
    selection = greedy(task, members, labels, mask)
    fused = score(task, fuse(members, selection.fusion_weights), labels, mask)
    singles = [score(task, member, labels, mask) for member in members]
    assert selection.path[0] == pytest.approx(max(singles), abs=1e-9)
    assert selection.path[-1] == max(selection.path) >= selection.path[0]
    assert fused == pytest.approx(selection.path[-1], abs=1e-6)
    assert selection.fusion_weights.sum() == len(selection.path) <= 25


def test_members_that_err_independently_gain_together() -> None:
    _, labels, mask = case(VALENCE, frames=500)
    errors = np.random.default_rng(1).normal(scale=0.5, size=(10, 500, 1))
    selection = greedy(VALENCE, labels + errors, labels, mask)
    assert selection.path[-1] > selection.path[0] + 0.1
    assert (selection.fusion_weights > 0).sum() >= 8


@EACH_TASK
def test_of_identical_members_a_chosen_one_or_the_lower_index_is_taken(task: Task) -> None:
    members, labels, mask = case(task, members=4, seed=3)
    doubled = np.concatenate([members, members])
    selection = greedy(task, doubled, labels, mask)
    single = greedy(task, members, labels, mask)
    np.testing.assert_array_equal(selection.fusion_weights, [*single.fusion_weights, 0, 0, 0, 0])


@EACH_TASK
def test_one_member_is_taken_once(task: Task) -> None:
    members, labels, mask = case(task, members=1)
    selection = greedy(task, members, labels, mask)
    assert selection.fusion_weights.tolist() == [1]
    np.testing.assert_array_equal(fuse(members, selection.fusion_weights), members[0])


@EACH_TASK
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_members_does_not_matter(task: Task, seed: int) -> None:
    members, labels, mask = case(task, members=6, frames=2000, seed=seed)
    order = np.random.default_rng(seed).permutation(6)
    shuffled = greedy(task, members[order], labels, mask, steps=10)
    straight = greedy(task, members, labels, mask, steps=10)
    np.testing.assert_array_equal(shuffled.fusion_weights, straight.fusion_weights[order])


@EACH_TASK
def test_frames_without_labels_are_not_used(task: Task) -> None:
    members, labels, mask = case(task)
    mask[::3] = False
    expected = greedy(task, members, labels, mask)
    members[:, ::3], labels[~mask] = 7, -1
    found = greedy(task, members, labels, mask)
    np.testing.assert_array_equal(found.fusion_weights, expected.fusion_weights)
    assert found.path == expected.path


@EACH_TASK
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_steps_bound_the_choice(task: Task, steps: int) -> None:
    members, labels, mask = case(task)
    assert 1 <= greedy(task, members, labels, mask, steps).fusion_weights.sum() <= steps


@EACH_TASK
def test_a_member_that_does_not_predict_the_task_is_refused(task: Task) -> None:
    members, labels, mask = case(task)
    members[2] = np.nan
    with pytest.raises(AssertionError, match=f"every member must predict {task.name}"):
        greedy(task, members, labels, mask)


@EACH_TASK
def test_a_task_without_labels_is_refused(task: Task) -> None:
    members, labels, mask = case(task)
    with pytest.raises(AssertionError, match=f"needs labels of {task.name}"):
        greedy(task, members, labels, np.zeros_like(mask))


def test_the_cut_is_at_the_earliest_best_step() -> None:
    good, labels, mask = case(VALENCE, members=1)
    good[0] = labels
    bad = np.stack([good[0], -good[0]])
    selection = greedy(VALENCE, bad, labels, mask)
    assert selection.fusion_weights.tolist() == [1, 0]
    assert selection.path == pytest.approx((1.0,))


@pytest.mark.parametrize("task", [EXPRESSION, UNITS], ids=lambda task: task.name)
def test_ties_of_hard_votes_are_decided_as_in_the_metrics(task: Task) -> None:
    members, labels, mask = case(task, members=3)
    votes = np.zeros_like(members)
    if task is EXPRESSION:
        np.put_along_axis(votes, members.argmax(axis=2)[..., None], 1, axis=2)
    else:
        votes[:] = members >= 0.5
    chosen, path = plain_greedy(task, votes, labels, mask)
    selection = greedy(task, votes, labels, mask, steps=6)
    np.testing.assert_array_equal(selection.fusion_weights, np.bincount(chosen, minlength=3))
    assert selection.path == pytest.approx(path, abs=1e-9)


@pytest.mark.parametrize("task", [EXPRESSION, UNITS], ids=lambda task: task.name)
def test_ties_of_totals_are_decided_as_the_metrics_decide_means(task: Task) -> None:
    total = np.random.default_rng(0).integers(0, 4, (task.width, 500)).astype(float)
    np.testing.assert_array_equal(fast_decisions(task, total, 4), decisions(task, total.T / 4).T)


@pytest.mark.parametrize(
    ("ratings", "chosen", "expected"),
    [
        ([0.5, 0.9, 0.9], [], 1),
        ([0.5, 0.9, 0.9], [2, 0, 2], 2),
        ([0.5, 0.9, 0.9 + 1e-14], [1], 1),
        ([0.5, 0.9, 0.9 + 1e-14], [0], 1),
        ([0.5, 0.9, 0.9 + 1e-9], [1], 2),
        ([-0.5, -0.4], [0], 1),
    ],
)
def test_ties_go_to_chosen_members_then_to_the_lower_index(
    ratings: list[float], chosen: list[int], expected: int
) -> None:
    assert pick_member(np.array(ratings), chosen) == expected


def test_fuse_is_the_weighted_mean_of_those_with_weight() -> None:
    members, _, _ = case(UNITS, members=4)
    members[3] = np.nan
    fused = fuse(members, np.array([3, 0, 1, 0]))
    np.testing.assert_allclose(fused, 0.75 * members[0] + 0.25 * members[2], rtol=1e-6)
    assert fused.dtype == np.float32


def test_members_are_left_as_they_are() -> None:
    members, labels, mask = case(EXPRESSION)
    before = members.copy()
    selection = greedy(EXPRESSION, members, labels, mask)
    assert isinstance(selection, Selection)
    np.testing.assert_array_equal(members, before)


@EACH_TASK
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_returns_the_score_of_its_mean(task: Task, rule: str) -> None:
    members, labels, mask = case(task, members=9, frames=400)
    selection = RULES[rule](task, members, labels, mask, steps=5)
    assert selection.fusion_weights.shape == (9,)
    assert (selection.fusion_weights >= 0).all()
    assert selection.fusion_weights.any()
    fused = score(task, fuse(members, selection.fusion_weights), labels, mask)
    assert fused == pytest.approx(
        selection.path[-1], abs=2e-3 if rule == "score_weighted" else 1e-6
    )


@EACH_TASK
def test_best_single_selects_the_member_with_the_highest_score(task: Task) -> None:
    members, labels, mask = case(task, members=9)
    singles = [score(task, member, labels, mask) for member in members]
    single = RULES["best_single"](task, members, labels, mask)
    assert single.fusion_weights.tolist() == np.eye(9)[int(np.argmax(singles))].tolist()


@EACH_TASK
def test_top_k_is_the_best_of_the_means_of_the_best(task: Task) -> None:
    members, labels, mask = case(task, members=7, frames=300, seed=4)
    singles = np.array([score(task, member, labels, mask) for member in members])
    order = np.argsort(-singles)
    means = [
        score(task, members[order[:k]].astype(float).mean(axis=0), labels, mask)
        for k in range(1, 6)
    ]
    selection = top_k(task, members, labels, mask, steps=5)
    best = int(np.argmax(means)) + 1
    assert np.flatnonzero(selection.fusion_weights).tolist() == sorted(order[:best].tolist())
    assert selection.path[-1] == pytest.approx(max(means), abs=1e-9)


def test_weights_by_score_are_the_scores_of_the_best_and_never_below_zero() -> None:
    _, labels, mask = case(VALENCE, frames=300)
    noise = np.random.default_rng(5).normal(scale=0.3, size=labels.shape)
    members = np.stack([labels + noise, -labels, 0.5 * labels + noise, labels + 3 * noise])
    singles = [score(VALENCE, member, labels, mask) for member in members]
    selection = score_weighted(VALENCE, members, labels, mask, steps=2)
    np.testing.assert_allclose(selection.fusion_weights, [singles[0], 0, singles[2], 0], atol=1e-9)
    only_bad = score_weighted(VALENCE, members[1:2], labels, mask)
    assert only_bad.fusion_weights.tolist() == [1]


def every_task(members: int, seed: int) -> Case:
    """Return outputs (M, N, 22), labels (N, 15) and mask (N, 15) of all four tasks."""
    cases = [case(task, members=members, seed=seed + i) for i, task in enumerate(TASKS.values())]
    outputs, labels, mask = zip(*cases, strict=True)
    joined = [np.concatenate(each, axis=-1) for each in (outputs, labels, mask)]
    return joined[0], joined[1], joined[2]


def combined_score(outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> float:
    return float(scores(outputs.astype(np.float32), labels, mask)["p_labelled"])


def test_the_first_k_of_the_order_are_a_greedy_choice_without_replacement() -> None:
    members, labels, mask = every_task(6, seed=2)
    chosen: list[int] = []
    for _ in range(4):
        left = [m for m in range(6) if m not in chosen]
        means = [members[[*chosen, m]].astype(float).mean(axis=0) for m in left]
        chosen.append(left[int(np.argmax([combined_score(mean, labels, mask) for mean in means]))])
    assert forward_order(members, labels, mask, max_members=4) == tuple(chosen)
    assert sorted(forward_order(members, labels, mask, max_members=99)) == list(range(6))


@EACH_TASK
def test_the_correlation_of_errors_is_that_of_the_differences_to_the_truth(task: Task) -> None:
    members, labels, mask = case(task, members=3, frames=200)
    mask[:] = True
    copy = np.concatenate([members, members[:1]])
    found = error_correlation(task, copy, labels, mask)
    truth = labels == np.arange(8) if task.kind == "multiclass" else labels
    expected = np.corrcoef((copy - truth).reshape(4, -1))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0, 3] == pytest.approx(1)


def test_the_correlation_of_errors_ignores_unknown_labels() -> None:
    members, labels, mask = case(UNITS, members=2, frames=200)
    changed = np.where(mask, members, 77)
    np.testing.assert_array_equal(
        error_correlation(UNITS, members, labels, mask),
        error_correlation(UNITS, changed, labels, mask),
    )
