"""Selection: which trials to average for one task, and how much each counts.

``greedy`` is ensemble selection with replacement (Caruana et al., ICML 2004, sections 2 and 2.1):
start from the best member, then add again and again the member whose addition makes the mean's
score highest. The other rules of ``RULES`` are what it must beat.

Shapes: ``M`` members, ``N`` frames, ``W`` outputs and ``L`` label columns of one task.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

from mtl.evaluation.metrics import combine, label_indicators, task_scores
from mtl.tasks import TASKS, Task

TIE_TOLERANCE = 1e-12  # scores closer than this differ by rounding only

RatingFunction = Callable[[np.ndarray, int], np.ndarray]  # (sum of chosen outputs, their number) -> (M,)


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        weights: How much each member counts, shape (M,); ``fuse`` makes the mean of it.
        path: The score after each step up to the one that was kept: the last is the fused one's.
    """

    weights: Shaped[np.ndarray, " M"]
    path: tuple[float, ...]


def fuse(
    members: Float[np.ndarray, "M N W"],
    weights: Shaped[np.ndarray, " M"],
) -> Float[np.ndarray, "N W"]:
    """Weighted mean of the members' outputs; those of weight 0 are not looked at."""
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
) -> Selection:
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
    columns, rate = _labelled_columns(task, members, labels, mask)
    assert steps > 0, "fusion needs a step"
    total = np.zeros(columns.shape[1:])
    chosen: list[int] = []
    path: list[float] = []
    # float64 holds sums of float32 outputs exactly: the order of choice leaves no trace.
    for count in range(steps):
        ratings = rate(total, count)
        best = _pick(ratings, chosen)
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
    """The mean of the k best members, with the best k of at most ``steps``; see ``greedy``."""
    columns, rate = _labelled_columns(task, members, labels, mask)
    order = np.argsort(-rate(np.zeros(columns.shape[1:]), 0), kind="stable")[:steps]
    total = np.zeros(columns.shape[1:])
    path = []
    for count, member in enumerate(order):
        path.append(float(rate(total, count)[member]))
        total += columns[member]
    kept = _steps_to_keep(path)
    weights = np.zeros(len(columns), int)
    weights[order[:kept]] = 1
    return Selection(weights, tuple(path[:kept]))


def best_single(
    task: Task,
    members: Float[np.ndarray, "M N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    steps: int = 25,
) -> Selection:
    """The task's best member alone; see ``greedy``."""
    return greedy(task, members, labels, mask, steps=1)


def score_weighted(
    task: Task,
    members: Float[np.ndarray, "M N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    steps: int = 25,
) -> Selection:
    """The mean of the ``steps`` best members weighted by their scores, as far as these are above 0;
    the best one alone where none is. See ``greedy``.
    """
    columns, rate = _labelled_columns(task, members, labels, mask)
    ratings = rate(np.zeros(columns.shape[1:]), 0)
    weights = ratings.clip(min=0)
    weights[np.argsort(-ratings, kind="stable")[steps:]] = 0
    if not weights.any():
        weights[np.argmax(ratings)] = 1
    fused = np.tensordot(weights / weights.sum(), columns, axes=1)
    _, rate_fused = _rating_function(task, fused[None], *_labelled_rows(labels, mask))
    return Selection(weights, (float(rate_fused(np.zeros(fused.shape), 0)[0]),))


Rule = Callable[..., Selection]
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
    most: int,
) -> tuple[int, ...]:
    """Up to ``most`` members in the order in which each next one adds most to the plain mean's
    combined score: whoever can afford to run only k models takes the first k.

    All members predict the same tasks; one that is not labelled here is left out.
    """
    raters = {
        name: _labelled_columns(task, members[:, :, task.outputs], labels[:, task.labels], known)
        for name, task in TASKS.items()
        if (known := mask[:, task.labels]).any() and np.isfinite(members[0, :, task.outputs]).all()
    }
    totals = {name: np.zeros(columns.shape[1:]) for name, (columns, _) in raters.items()}
    order: list[int] = []
    for count in range(min(most, len(members))):
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
    """How alike the members err: Pearson's correlation of (output - truth) over all known labels.

    A member helps the more the less its errors are those of the others. NaN for one whose error
    never varies.
    """
    truth = labels if task.kind == "regression" else label_indicators(task, labels, mask)
    known = np.broadcast_to(mask, truth.shape)
    errors = np.stack([(outputs - truth)[known] for outputs in members]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(errors))


def _labelled_columns(
    task: Task, members: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, RatingFunction]:
    """The members' outputs of the labelled frames, (M, W, n), and what rates them."""
    rows = np.flatnonzero(mask.any(axis=1))
    assert len(members) > 0, "fusion needs a member"
    assert len(rows) > 0, f"fusion needs labels of {task.name}"
    columns = np.empty((len(members), members.shape[2], len(rows)), members.dtype)
    for member, outputs in enumerate(members):  # one copy at a time: there may be hundreds
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
    rows = mask.any(axis=1)
    return labels[rows], mask[rows]


def _steps_to_keep(path: Sequence[float]) -> int:
    """How many steps of a path to keep."""
    return int(np.argmax(np.array(path) >= max(path) - TIE_TOLERANCE)) + 1


def _pick(ratings: np.ndarray, chosen: list[int]) -> int:
    equals = np.flatnonzero(ratings >= ratings.max() - TIE_TOLERANCE)
    already = np.intersect1d(equals, chosen)
    return int(already[0] if len(already) else equals[0])


def _concordances(task: Task, x: np.ndarray, y: np.ndarray) -> RatingFunction:
    """RatingFunction all members with one product: the sums of (total + member) follow from their parts."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    sum_x, sum_xx, sum_xy = x.sum(axis=1), np.einsum("mn,mn->m", x, x), x @ y

    def rate(total: np.ndarray, count: int) -> np.ndarray:
        chosen, taken = total[0], count + 1
        sums = np.empty((len(x), 6))  # as mtl.evaluation.metrics has them, of the candidates' means
        sums[:, 0], sums[:, 2], sums[:, 4] = len(y), y.sum(), y @ y
        sums[:, 1] = (chosen.sum() + sum_x) / taken
        sums[:, 3] = (chosen @ chosen + 2 * (x @ chosen) + sum_xx) / taken**2
        sums[:, 5] = (chosen @ y + sum_xy) / taken
        return task_scores(task, sums)

    return rate


def _f1_scores(task: Task, columns: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> RatingFunction:
    """RatingFunction the members one by one: the means of all of them at once would not fit in memory."""
    actual = np.ascontiguousarray(label_indicators(task, labels, mask).T)
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
    """``mtl.evaluation.metrics.decisions`` of the mean, by column in a tenth of the time."""
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
