"""Greedy fusion: which trials to average, and how often each, for one task.

Ensemble selection with replacement (Caruana et al., ICML 2004, sections 2 and 2.1): start from the
best member, then add again and again the member whose addition makes the mean's score highest.

Shapes: ``M`` members, ``N`` frames, ``W`` outputs and ``L`` label columns of one task.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mtl.metrics import task_scores, truths
from mtl.tasks import Task

TIE = 1e-12  # scores closer than this differ by rounding only

Rate = Callable[[np.ndarray, int], np.ndarray]  # (sum of chosen outputs, their number) -> (M,)


@dataclass(frozen=True)
class Fusion:
    """What was chosen.

    Attributes:
        weights: How often each member was taken, shape (M,); ``fuse`` makes the mean of it.
        path: The score after each step up to the one that was kept: the last is the best.
    """

    weights: Int[np.ndarray, " M"]
    path: tuple[float, ...]


def fuse(
    members: Float[np.ndarray, "M N W"], weights: Int[np.ndarray, " M"]
) -> Float[np.ndarray, "N W"]:
    """Mean of the members' outputs, each counted ``weights`` times; the rest are not looked at."""
    total = np.zeros(members.shape[1:])
    for member in np.flatnonzero(weights):
        total += weights[member] * members[member].astype(np.float64)
    return np.asarray(total / weights.sum(), members.dtype)


def greedy(
    task: Task,
    members: Float[np.ndarray, "M N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    steps: int = 25,
) -> Fusion:
    """Choose up to ``steps`` members, with replacement, for the best score on the labelled frames.

    Equal scores go to a member already chosen, then to the lower index. The choice is cut where
    the score was highest, the earliest of equals, so it is never worse than the best member.
    What is chosen here has seen these labels: give it the `select` frames only.

    Args:
        task: Whose outputs these are.
        members: Outputs of each member, in probabilities; all predict the task.
        labels: The task's labels.
        mask: Which of them are known; at least one is.
        steps: The most members to take.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    assert len(members) > 0, "fusion needs a member"
    assert steps > 0, "fusion needs a step"
    assert len(rows) > 0, f"fusion needs labels of {task.name}"
    columns, labels, mask = _labelled_columns(members, rows), labels[rows], mask[rows]
    assert np.isfinite(columns).all(), f"every member must predict {task.name}"
    if task.kind == "regression":
        return _select(_concordances(task, columns[:, 0], labels[:, 0]), columns, steps)
    return _select(_f1_scores(task, columns, labels, mask), columns, steps)


def _labelled_columns(members: np.ndarray, rows: np.ndarray) -> np.ndarray:  # (M, W, n)
    columns = np.empty((len(members), members.shape[2], len(rows)), members.dtype)
    for member, outputs in enumerate(members):  # one copy at a time: there may be hundreds
        columns[member] = outputs[rows].T
    return columns


def _select(rate: Rate, columns: np.ndarray, steps: int) -> Fusion:
    # float64 holds sums of float32 outputs exactly: the order of choice leaves no trace.
    total = np.zeros(columns.shape[1:])
    chosen: list[int] = []
    path: list[float] = []
    for count in range(steps):
        ratings = rate(total, count)
        best = _pick(ratings, chosen)
        total += columns[best]
        chosen.append(best)
        path.append(float(ratings[best]))
    kept = int(np.argmax(np.array(path) >= max(path) - TIE)) + 1
    return Fusion(np.bincount(chosen[:kept], minlength=len(columns)), tuple(path[:kept]))


def _pick(ratings: np.ndarray, chosen: list[int]) -> int:
    equals = np.flatnonzero(ratings >= ratings.max() - TIE)
    already = np.intersect1d(equals, chosen)
    return int(already[0] if len(already) else equals[0])


def _concordances(task: Task, x: np.ndarray, y: np.ndarray) -> Rate:
    """Rate all members with one product: the sums of (total + member) follow from their parts."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    sum_x, sum_xx, sum_xy = x.sum(axis=1), np.einsum("mn,mn->m", x, x), x @ y

    def rate(total: np.ndarray, count: int) -> np.ndarray:
        chosen, taken = total[0], count + 1
        sums = np.empty((len(x), 6))  # as mtl.metrics has them, of the candidates' means
        sums[:, 0], sums[:, 2], sums[:, 4] = len(y), y.sum(), y @ y
        sums[:, 1] = (chosen.sum() + sum_x) / taken
        sums[:, 3] = (chosen @ chosen + 2 * (x @ chosen) + sum_xx) / taken**2
        sums[:, 5] = (chosen @ y + sum_xy) / taken
        return task_scores(task, sums)

    return rate


def _f1_scores(task: Task, columns: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> Rate:
    """Rate the members one by one: the means of all of them at once would not fit in memory."""
    actual = np.ascontiguousarray(truths(task, labels, mask).T)
    known = np.ascontiguousarray(np.broadcast_to(mask.T, actual.shape))
    fixed = [_count(actual), _count(known)]

    def rate(total: np.ndarray, count: int) -> np.ndarray:
        sums = np.empty((len(columns), 4 * task.width))
        candidate = np.empty(total.shape)
        for member, outputs in enumerate(columns):
            np.add(total, outputs, out=candidate)
            predicted = _decisions(task, candidate, count + 1) & known
            sums[member] = np.concatenate([_count(predicted & actual), _count(predicted), *fixed])
        return task_scores(task, sums)

    return rate


def _decisions(task: Task, total: np.ndarray, count: int) -> np.ndarray:
    """What ``mtl.metrics.decisions`` says of the mean; by column it takes a tenth of the time."""
    if task.kind == "multilabel":
        return np.asarray(total >= 0.5 * count)
    largest = np.asarray(total == total.max(axis=0))
    free = ~largest[0]
    for column in largest[1:]:  # only the first of equals counts
        column &= free
        free &= ~column
    return largest


def _count(columns: np.ndarray) -> list[int]:
    return [int(np.count_nonzero(column)) for column in columns]
