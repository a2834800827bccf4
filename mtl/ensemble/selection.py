"""Ensemble selection: the weight of each member (trained model) in the mean of a task's outputs.

``greedy`` is ensemble selection with replacement (Caruana et al., ICML 2004, sections 2 and 2.1):
it starts from the best member and at each step adds the member that gives the mean the highest
score. The other rules in ``RULES`` are baselines for it.

Shapes: M members, N frames, W outputs and L label columns of one task, n labelled frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from mtl.evaluation.metrics import combine, label_indicators, task_scores
from mtl.tasks import TASKS, Task

TIE_TOLERANCE = 1e-12
"""Scores that differ by at most this number count as equal."""

RatingFunction = Callable[[np.ndarray, int], np.ndarray]
"""Function that rates each member (model) by the ensemble's score if that member is added.

Its arguments are the sum of the outputs of the members chosen so far, shape (outputs of a frame,
labelled frames), and the number of these members. It returns one score for each member, shape
(members,): the score of the mean outputs of the chosen members and that member.
"""


@dataclass(frozen=True)
class Selection:
    """Result of the selection of ensemble members (trained models) for one task.

    Attributes:
        fusion_weights: Weight of each member in the mean of the outputs, shape (members,); 0 for a
            member that is not selected.
        path: Score of the mean outputs after each step of the selection that was kept; the last
            number is the ensemble's score.
    """

    fusion_weights: Shaped[np.ndarray, " M"]
    path: tuple[float, ...]


def fuse(
    members: Float[np.ndarray, "M N W"],
    fusion_weights: Shaped[np.ndarray, " M"],
) -> Float[np.ndarray, "N W"]:
    """Return the weighted mean of the outputs of an ensemble's members (trained models).

    Args:
        members: Outputs of each member, shape (members, frames, outputs); those of a member with
            weight 0 may be NaN.
        fusion_weights: Weight of each member.

    Returns:
        The mean, shape (frames, outputs).
    """
    total = np.zeros(members.shape[1:])
    for member in np.flatnonzero(fusion_weights):
        total += fusion_weights[member] * members[member].astype(np.float64)
    return np.asarray(total / fusion_weights.sum(), members.dtype)


def greedy(
    task: Task,
    members: Float[np.ndarray, "M N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    steps: int = 25,
) -> Selection:
    """Select trained models (members), with replacement, for the best score of their mean outputs.

    If several members have the same score, one that is already chosen goes first, then the one with
    the lowest index. The selection ends at the earliest step with the highest score, so the result
    is never worse than the best member. Because it is fitted to these labels, pass frames of
    ``select`` only (validation videos on which choices are made).

    Args:
        task: Task of the outputs and labels.
        members: Outputs of each member (values or probabilities); all members predict the task.
        labels: Labels of the task.
        mask: True for known labels; at least one label is known.
        steps: Maximum number of steps; each step adds one member.
    """
    columns, rate = _labelled_columns(task, members, labels, mask)
    assert steps > 0, "fusion needs a step"
    total = np.zeros(columns.shape[1:])
    chosen: list[int] = []
    path: list[float] = []
    # float64 holds sums of float32 outputs exactly, so the order of the steps does not matter.
    for count in range(steps):
        ratings = rate(total, count)
        best = pick_member(ratings, chosen)
        total += columns[best]
        chosen.append(best)
        path.append(float(ratings[best]))
    kept = _steps_to_keep(path)
    return Selection(np.bincount(chosen[:kept], minlength=len(columns)), tuple(path[:kept]))


def top_k(
    task: Task,
    members: Float[np.ndarray, "M N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    steps: int = 25,
) -> Selection:
    """Select the k best trained models (members) with equal weights.

    The k is chosen so that the mean of their outputs has the best score.

    Args:
        task: Task of the outputs and labels.
        members: Outputs of each member (values or probabilities); all members predict the task.
        labels: Labels of the task.
        mask: True for known labels; at least one label is known.
        steps: Maximum of k.
    """
    columns, rate = _labelled_columns(task, members, labels, mask)
    order = np.argsort(-rate(np.zeros(columns.shape[1:]), 0), kind="stable")[:steps]
    total = np.zeros(columns.shape[1:])
    path = []
    for count, member in enumerate(order):
        path.append(float(rate(total, count)[member]))
        total += columns[member]
    kept = _steps_to_keep(path)
    fusion_weights = np.zeros(len(columns), int)
    fusion_weights[order[:kept]] = 1
    return Selection(fusion_weights, tuple(path[:kept]))


def best_single(
    task: Task,
    members: Float[np.ndarray, "M N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    steps: int = 25,
) -> Selection:
    """Select only the trained model (member) with the best score on the task.

    Args:
        task: Task of the outputs and labels.
        members: Outputs of each member (values or probabilities); all members predict the task.
        labels: Labels of the task.
        mask: True for known labels; at least one label is known.
        steps: Not used; every selection rule has this argument.
    """
    return greedy(task, members, labels, mask, steps=1)


def score_weighted(
    task: Task,
    members: Float[np.ndarray, "M N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    steps: int = 25,
) -> Selection:
    """Select the ``steps`` best trained models (members), each weighted by its own score.

    Members without a score above 0 are left out. If no score is above 0, the best member is
    selected alone.

    Args:
        task: Task of the outputs and labels.
        members: Outputs of each member (values or probabilities); all members predict the task.
        labels: Labels of the task.
        mask: True for known labels; at least one label is known.
        steps: Maximum number of members.
    """
    columns, rate = _labelled_columns(task, members, labels, mask)
    ratings = rate(np.zeros(columns.shape[1:]), 0)
    fusion_weights = ratings.clip(min=0)
    fusion_weights[np.argsort(-ratings, kind="stable")[steps:]] = 0
    if not fusion_weights.any():
        fusion_weights[np.argmax(ratings)] = 1
    fused = np.tensordot(fusion_weights / fusion_weights.sum(), columns, axes=1)
    _, rate_fused = _rating_function(task, fused[None], *_labelled_rows(labels, mask))
    return Selection(fusion_weights, (float(rate_fused(np.zeros(fused.shape), 0)[0]),))


Rule = Callable[..., Selection]
"""Function that selects the members (trained models) of an ensemble for one task.

Its arguments are the task, the outputs of all members, labels, mask of known labels and steps.
"""
RULES: dict[str, Rule] = {
    "greedy": greedy,
    "top_k": top_k,
    "best_single": best_single,
    "score_weighted": score_weighted,
}


def forward_order(
    members: Float[np.ndarray, "M N 22"],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
    max_members: int,
) -> tuple[int, ...]:
    """Return member indices in the order of greedy selection for all tasks, without replacement.

    Each next member is the one that gives the mean outputs the highest combined score over all
    tasks, so the first k members are an ensemble of k models. Tasks without a label or without
    outputs do not count.

    Args:
        members: Outputs of each member; all members predict the same tasks.
        labels: Labels of all tasks.
        mask: True for known labels.
        max_members: Maximum number of members to return.
    """
    raters = {
        name: _labelled_columns(task, members[:, :, task.outputs], labels[:, task.labels], known)
        for name, task in TASKS.items()
        if (known := mask[:, task.labels]).any() and np.isfinite(members[0, :, task.outputs]).all()
    }
    totals = {name: np.zeros(columns.shape[1:]) for name, (columns, _) in raters.items()}
    order: list[int] = []
    for count in range(min(max_members, len(members))):
        ratings = combine({n: rate(totals[n], count) for n, (_, rate) in raters.items()})
        assert ratings is not None, "forward_order needs labels"
        ratings[order] = -np.inf
        order.append(int(np.argmax(ratings >= ratings.max() - TIE_TOLERANCE)))
        for name, (columns, _) in raters.items():
            totals[name] += columns[order[-1]]
    return tuple(order)


def error_correlation(
    task: Task,
    members: Float[np.ndarray, "M N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
) -> Float[np.ndarray, "M M"]:
    """Return the correlation of the errors (output - label) of each pair of members (models).

    A member helps an ensemble more if its errors correlate less with those of the other members.
    The correlation is Pearson's; entries of a member with a constant error are NaN. The result has
    the shape (members, members).

    Args:
        task: Task of the outputs and labels.
        members: Outputs of each member (values or probabilities).
        labels: Labels of the task.
        mask: True for known labels; only these count.
    """
    truth = labels if task.kind == "regression" else label_indicators(task, labels, mask)
    known = np.broadcast_to(mask, truth.shape)
    errors = np.stack([(outputs - truth)[known] for outputs in members]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(errors))


def _labelled_columns(
    task: Task, members: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, RatingFunction]:
    """Return the members' (models') outputs on labelled frames, and a function that rates members.

    The outputs have the shape (members, outputs of a frame, labelled frames). The frames are last
    so that a column of one output is contiguous in memory. The function returns for each member
    the score of the ensemble if that member is added.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    assert len(members) > 0, "fusion needs a member"
    assert len(rows) > 0, f"fusion needs labels of {task.name}"
    columns = np.empty((len(members), members.shape[2], len(rows)), members.dtype)
    for member, outputs in enumerate(members):  # one by one, to save memory with many members
        columns[member] = outputs[rows].T
    assert np.isfinite(columns).all(), f"every member must predict {task.name}"
    return _rating_function(task, columns, labels[rows], mask[rows])


def _rating_function(
    task: Task, columns: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, RatingFunction]:
    if task.kind == "regression":
        return columns, _concordances(task, columns[:, 0], labels[:, 0])
    return columns, _f1_scores(task, columns, labels, mask)


def _labelled_rows(labels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and mask of the frames with a known label."""
    rows = mask.any(axis=1)
    return labels[rows], mask[rows]


def _steps_to_keep(path: Sequence[float]) -> int:
    """Return the number of selection steps up to the earliest step with the highest score."""
    return int(np.argmax(np.array(path) >= max(path) - TIE_TOLERANCE)) + 1


def pick_member(ratings: np.ndarray, chosen: list[int]) -> int:
    """Return the index of the member (trained model) with the highest rating.

    Among equal ratings, a member that is already chosen goes first, then the lowest index.

    Args:
        ratings: Score of the ensemble with each member added, shape (members,).
        chosen: Indices of the members chosen so far.
    """
    equals = np.flatnonzero(ratings >= ratings.max() - TIE_TOLERANCE)
    already = np.intersect1d(equals, chosen)
    return int(already[0] if len(already) else equals[0])


def _concordances(task: Task, x: np.ndarray, y: np.ndarray) -> RatingFunction:
    """Return a function that rates each member (model) by the ensemble's CCC if it is added.

    The sums that CCC needs for the mean outputs (total + member) / count follow from sums over
    the total of the chosen members and over the added member, so one matrix product rates all
    members.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    sum_x, sum_xx, sum_xy = x.sum(axis=1), np.einsum("mn,mn->m", x, x), x @ y

    def rate(total: np.ndarray, count: int) -> np.ndarray:
        chosen, taken = total[0], count + 1
        sums = np.empty((len(x), 6))  # the sums of mtl.evaluation.metrics, one row per member
        sums[:, 0], sums[:, 2], sums[:, 4] = len(y), y.sum(), y @ y
        sums[:, 1] = (chosen.sum() + sum_x) / taken
        sums[:, 3] = (chosen @ chosen + 2 * (x @ chosen) + sum_xx) / taken**2
        sums[:, 5] = (chosen @ y + sum_xy) / taken
        return task_scores(task, sums)

    return rate


def _f1_scores(
    task: Task, columns: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> RatingFunction:
    """Return a function that rates each member (model) by the ensemble's F1 score if it is added.

    Members are rated one by one because the means of all of them would not fit in memory.
    """
    actual = np.ascontiguousarray(label_indicators(task, labels, mask).T)
    known = np.ascontiguousarray(np.broadcast_to(mask.T, actual.shape))
    fixed = [_count(actual), _count(known)]

    def rate(total: np.ndarray, count: int) -> np.ndarray:
        sums = np.empty((len(columns), 4 * task.width))
        candidate = np.empty(total.shape)
        for member, outputs in enumerate(columns):
            np.add(total, outputs, out=candidate)
            predicted = fast_decisions(task, candidate, count + 1) & known
            sums[member] = np.concatenate([_count(predicted & actual), _count(predicted), *fixed])
        return task_scores(task, sums)

    return rate


def fast_decisions(task: Task, total: np.ndarray, count: int) -> np.ndarray:
    """Return the 0/1 decision for each class or action unit from the sum of the models' outputs.

    The result equals ``mtl.evaluation.metrics.decisions`` of the mean outputs and takes a tenth of
    its time.

    Args:
        task: Expression or action units.
        total: Sum of the probabilities of ``count`` models, shape (outputs, frames).
        count: Number of models in the sum.
    """
    if task.kind == "multilabel":
        return np.asarray(total >= 0.5 * count)
    largest = np.asarray(total == total.max(axis=0))
    free = ~largest[0]
    for column in largest[1:]:  # of equal outputs only the first one is decided for
        column &= free
        free &= ~column
    return largest


def _count(columns: np.ndarray) -> list[int]:
    return [int(np.count_nonzero(column)) for column in columns]
