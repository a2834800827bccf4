"""Ridge regression on the features of single frames, a baseline for temporal models.

    python benchmarks/ridge.py --data DIR [--confirm 0.5] [--seed 1234]
                               [--smooth-seconds 2 20 --fps 25]

The inputs are the z-scored features of all feature sets at the annotated frames and, optionally,
their moving averages over centred windows of the given lengths. A closed-form ridge regression
is fitted for each label column on the training frames that have this label. The expression is
encoded as eight 0/1 columns and decided by argmax; predictions of valence and arousal are clipped
to [-1, 1]. For each task, the ridge penalty (and, for action units, the rule for the decision
thresholds) is the one with the best out-of-fold score over the training videos. A threshold is
either 0.5 or the quantile at which the rate of positive out-of-fold predictions equals the rate of
positive training labels. Prints the scores on all validation videos and on ``confirm`` alone
(validation videos held back for the final scores), then one JSON line. Takes at most a minute for
22,000 frames and 450 features.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl.dataset import Dataset, Listing, open_dataset
from mtl.evaluation.bootstrap import bootstrap, intervals
from mtl.evaluation.metrics import scores, task_score, task_sums
from mtl.sequences.folds import select_videos
from mtl.tasks import OUTPUT_COLUMNS, TASKS, Task
from sweeps.cli.run_program import run_program

PENALTIES = tuple(10.0**n for n in range(-2, 7))
FOLDS = 5
SHOWN_SCORES = ("p_labelled", "ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums over n rows of features and targets, from which a ridge regression can be solved.

    The sums over a subset of the rows can be subtracted, which gives those over the other rows.
    Legend: F features, C targets.

    Attributes:
        n: Number of rows.
        x: Sum of the features, (F,).
        y: Sum of the targets, (C,).
        xx: Sum of outer products of the features, (F, F).
        xy: Sum of outer products of features and targets, (F, C).
    """

    n: float
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats

    @classmethod
    def of(cls, x: Floats, y: Floats) -> "Moments":
        """Compute the sums of features, of targets and of their products over n rows.

        Args:
            x: F features of each row, (n, F).
            y: C targets of each row, (n, C).
        """
        return cls(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y)

    def without(self, other: "Moments") -> "Moments":
        """Return the sums over all rows that are not in a subset.

        Args:
            other: Sums over the rows of the subset.
        """
        return Moments(
            self.n - other.n,
            self.x - other.x,
            self.y - other.y,
            self.xx - other.xx,
            self.xy - other.xy,
        )

    def solve(self, penalties: Sequence[float]) -> list[tuple[Floats, Floats]]:
        """Solve the ridge regression for several penalties.

        Args:
            penalties: Factors of the squared weights in the regression's loss.

        Returns:
            For each penalty, the weights (F, C) of F features for C targets, and the intercepts
            (C,), which are not penalised.
        """
        n = max(self.n, 1)
        mean_x, mean_y = self.x / n, self.y / n
        values, vectors = np.linalg.eigh(self.xx - n * np.outer(mean_x, mean_x))
        rotated = vectors.T @ (self.xy - n * np.outer(mean_x, mean_y))
        solutions = []
        for penalty in penalties:
            weights = vectors @ (rotated / (np.maximum(values, 0) + penalty)[:, None])
            solutions.append((weights, mean_y - mean_x @ weights))
        return solutions


def targets(task: Task, labels: NDArray[np.float32]) -> Floats:
    """Return a task's regression targets: its label columns, or a 0/1 column for each expression.

    Args:
        task: The task.
        labels: All 15 labels of N frames, (N, 15).
    """
    columns = labels[:, task.labels].astype(np.float64)
    return columns if task.kind != "multiclass" else np.equal(columns, np.arange(task.width)) * 1.0


def columns_labelled_alike(
    task: Task, mask: NDArray[np.bool_]
) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Group a task's regression targets so that those of a group are labelled on the same frames.

    Args:
        task: The task.
        mask: True where a label is known, (N, 15) for N frames.

    Returns:
        For each group, the column numbers of its targets, and a mask that is True for the frames on
        which they are labelled, (N,). Targets without labels are in no group.
    """
    known = mask[:, task.labels]
    if task.kind == "multiclass":
        known = np.repeat(known, task.width, axis=1)
    patterns, group = np.unique(known, axis=1, return_inverse=True)
    return [
        (np.flatnonzero(group.ravel() == g), patterns[:, g])
        for g in range(patterns.shape[1])
        if patterns[:, g].any()
    ]


def regress(x: Floats, y: Floats, fold: NDArray[np.int64], x_new: Floats) -> tuple[Floats, Floats]:
    """Return ridge regression's predictions for training rows (out of fold) and for new rows.

    Legend: n training rows, M new rows, F features, C targets, P ridge penalties (``PENALTIES``).

    Args:
        x: Features of the training rows, (n, F).
        y: Targets of the training rows, (n, C).
        fold: Fold of each training row, (n,).
        x_new: Features of the new rows, (M, F).

    Returns:
        For each penalty, predictions for each training row by a regression on the other folds,
        (P, n, C), and predictions for the new rows by a regression on all training rows, (P, M, C).
    """
    moments = Moments.of(x, y)
    out_of_fold = np.zeros((len(PENALTIES), *y.shape))
    for k in np.unique(fold):
        held = fold == k
        rest = moments.without(Moments.of(x[held], y[held]))
        out_of_fold[:, held] = [x[held] @ w + b for w, b in rest.solve(PENALTIES)]
    return out_of_fold, np.array([x_new @ w + b for w, b in moments.solve(PENALTIES)])


def fit_task(
    task: Task,
    x: Floats,
    labels: NDArray[np.float32],
    mask: NDArray[np.bool_],
    fold: NDArray[np.int64],
    x_new: Floats,
) -> Floats:
    """Fit the ridge regressions of one task on training frames and return outputs for new frames.

    The outputs have a column for each label of the task (for expression: each class); columns
    without training labels are NaN. The ridge penalty and the shift of the outputs, which acts as
    decision threshold of action units, are those with the best out-of-fold score. Legend: N
    training rows (frames), M new rows, F features.

    Args:
        task: The task.
        x: Features of the training rows, (N, F).
        labels: Labels of the training rows, (N, 15).
        mask: True where a label is known, (N, 15).
        fold: Fold of each training row, (N,).
        x_new: Features of the new rows, (M, F).

    Returns:
        Outputs for the new rows, (M, columns).
    """
    y = targets(task, labels)
    guesses = np.full((len(PENALTIES), *y.shape), np.nan)
    final = np.full((len(PENALTIES), len(x_new), y.shape[1]), np.nan)
    for columns, rows in columns_labelled_alike(task, mask):
        out_of_fold, new = regress(x[rows], y[rows][:, columns], fold[rows], x_new)
        guesses[:, rows[:, None] & np.isin(np.arange(y.shape[1]), columns)] = out_of_fold.reshape(
            len(PENALTIES), -1
        )
        final[:, :, columns] = new
    if task.kind == "regression":  # the models' outputs are clipped as well
        guesses, final = guesses.clip(-1, 1), final.clip(-1, 1)
    options = [
        (guess + shift, outputs + shift)
        for guess, outputs in zip(guesses, final, strict=True)
        for shift in decision_shifts(task, guess, y, mask[:, task.labels])
    ]
    reached = [score(task, guess, labels, mask) for guess, _ in options]
    return np.asarray(options[int(np.argmax(reached))][1])


def decision_shifts(task: Task, guess: Floats, y: Floats, known: NDArray[np.bool_]) -> list[Floats]:
    """Return the shifts of a task's outputs among which the fit chooses.

    A shift is added to the outputs before values above 0.5 count as positive, so it acts as a
    decision threshold. Legend: N frames, C targets.

    Args:
        task: The task.
        guess: Out-of-fold predictions, (N, C).
        y: Targets, (N, C).
        known: True where a target is labelled, (N, C).

    Returns:
        List of arrays with one shift per target, (C,). The first array is zero. For action units
        there is a second one, with which the rate of positive predictions of each unit equals the
        unit's rate of positive labels.
    """
    nothing = np.zeros(y.shape[1])
    if task.kind != "multilabel":
        return [nothing]
    prior = nothing.copy()
    for c in np.flatnonzero(known.any(axis=0)):
        rows = known[:, c]
        prior[c] = 0.5 - np.quantile(guess[rows, c], 1 - y[rows, c].mean())
    return [nothing, prior]


def score(
    task: Task, outputs: Floats, labels: NDArray[np.float32], mask: NDArray[np.bool_]
) -> float:
    """Return the score of one task's outputs, or -inf if no frame is labelled.

    Args:
        task: The task.
        outputs: Outputs of the task for N frames, (N, outputs).
        labels: All 15 labels of each frame, (N, 15).
        mask: True where a label is known, (N, 15).
    """
    rows = mask[:, task.labels].any(axis=1)
    sums = task_sums(task, outputs[rows], labels[rows, task.labels], mask[rows, task.labels])
    reached = task_score(task, sums)
    return -np.inf if reached is None else reached


def moving_average(
    values: NDArray[Any], frames: NDArray[np.int32], at: NDArray[np.int32], radius_frames: float
) -> Floats:
    """Return the mean features of a video's frames around each of some frame numbers, (m, F).

    If no frame is within the radius, the features of the nearest frame are used. Legend: n frames
    with features, m frame numbers, F features.

    Args:
        values: Features of the video's frames, (n, F).
        frames: Frame numbers of these frames, increasing, (n,).
        at: Frame numbers around which to average, (m,).
        radius_frames: Largest distance of an averaged frame from the frame number in ``at``.
    """
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=float)])
    nearest = _nearest(frames, at)
    start = np.minimum(np.searchsorted(frames, at - radius_frames, "left"), nearest)
    stop = np.maximum(np.searchsorted(frames, at + radius_frames, "right"), nearest + 1)
    return np.asarray((sums[stop] - sums[start]) / (stop - start)[:, None])


def _nearest(frames: NDArray[np.int32], at: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return, for each number in ``at``, the position of the nearest number in ``frames``."""
    after = np.searchsorted(frames, at).clip(1, max(len(frames) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(frames) - 1)
    return np.where(np.abs(frames[after] - at) < np.abs(at - frames[before]), after, before)


def frame_features(
    dataset: Dataset,
    listing: Listing,
    rows: NDArray[np.int64],
    radii_frames: Sequence[float],
    sets: Sequence[str] | None = None,
) -> Floats:
    """Return the features of annotated frames, with moving averages of the features over time.

    A frame without features gets those of the nearest frame of its video; the frames of a video
    without features get NaN.

    Args:
        dataset: The dataset.
        listing: All annotated frames of the dataset.
        rows: Numbers of the frames in ``listing``.
        radii_frames: Radius of each moving average, in frames.
        sets: Names of the feature sets; all if None.

    Returns:
        One row for each of ``rows``. The columns are, for each feature set in turn, the set's
        features, then moving averages of these features with each radius.
    """
    columns = [
        moving_averages(dataset, name, listing, rows, radius)
        for name in sets or dataset.feature_sets()
        for radius in (0, *radii_frames)
    ]
    return np.concatenate(columns, axis=1)


def moving_averages(
    dataset: Dataset, name: str, listing: Listing, rows: NDArray[np.int64], radius_frames: float
) -> Floats:
    """Return the moving average of one feature set at annotated frames, one row per frame.

    The average is over all frames within the radius that have features, annotated or not. The rows
    of a video without features are NaN.

    Args:
        dataset: The dataset.
        name: Name of the feature set.
        listing: All annotated frames of the dataset.
        rows: Numbers of the frames in ``listing``.
        radius_frames: Radius of the moving average, in frames.
    """
    index = dataset.index(name)
    spans = dict(zip(index.names, zip(index.starts, index.starts[1:], strict=False), strict=True))
    out = np.full((len(rows), dataset.width(name)), np.nan)
    for video in np.unique(listing.video[rows]):
        start, stop = map(int, spans.get(listing.names[video], (0, 0)))
        if start < stop:
            of_video = np.flatnonzero(listing.video[rows] == video)
            values, frames = dataset.read(name, start, stop), index.frames[start:stop]
            at = listing.frame[rows][of_video]
            out[of_video] = moving_average(values, frames, at, radius_frames)
    return out


def standardise(x: Floats, train: int) -> Floats:
    """Return features z-scored by the training frames' mean and standard deviation.

    A missing feature (NaN) becomes 0, the mean.

    Args:
        x: Features, one row per frame, training frames first.
        train: Number of training frames.
    """
    mean, std = np.nanmean(x[:train], axis=0), np.nanstd(x[:train], axis=0)
    return np.asarray(np.nan_to_num((x - mean) / np.where(std > 0, std, 1)))


def predict_validation(
    dataset: Dataset,
    listing: Listing,
    radii_frames: Sequence[float],
    seed: int,
    sets: Sequence[str] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Fit ridge regressions of all tasks on the training frames; predict the validation frames.

    Args:
        dataset: The dataset.
        listing: All annotated frames of the dataset, with labels.
        radii_frames: Radius of each moving average of the features, in frames.
        seed: Seed of the training folds, with which the ridge penalty is chosen.
        sets: Names of the feature sets; all if None.

    Returns:
        The numbers of the M validation frames in ``listing``, (M,), and the outputs for these
        frames, (M, 22).
    """
    split = np.array(listing.splits)[listing.video]
    train, new = np.flatnonzero(split == "train"), np.flatnonzero(split == "validation")
    x = frame_features(dataset, listing, np.concatenate([train, new]), radii_frames, sets)
    x = standardise(x, len(train))
    folds = np.random.default_rng(seed).permutation(len(listing.names)) % FOLDS
    outputs = np.full((len(new), len(OUTPUT_COLUMNS)), np.nan, dtype=np.float32)
    for task in TASKS.values():
        outputs[:, task.outputs] = fit_task(
            task,
            x[: len(train)],
            listing.values[train],
            listing.mask[train],
            folds[listing.video[train]],
            x[len(train) :],
        )
    return new, outputs


def ridge_scores(
    dataset: Dataset, radii_frames: Sequence[float] = (), confirm: float = 0.5, seed: int = 1234
) -> dict[str, dict[str, Any]]:
    """Return the validation scores of ridge regression, with 95 % intervals.

    Args:
        dataset: The dataset.
        radii_frames: Radius of each moving average of the features, in frames.
        confirm: Share of the validation videos that is also scored alone, as the videos held back
            for the final scores of a sweep; 0 for none.
        seed: Seed of the training folds and of the choice of the videos that are scored alone.

    Returns:
        One dict for ``validation`` (all validation videos) and, if ``confirm`` is not 0, one for
        ``confirm`` (the videos scored alone). Each has the scores by name, such as
        ``ccc_valence``, and under the key ``interval`` a dict of the 95 % interval of each score.
    """
    listing = dataset.listing()
    rows, outputs = predict_validation(dataset, listing, radii_frames, seed)
    videos = [n for n, split in enumerate(listing.splits) if split == "validation"]
    names = [listing.names[n] for n in videos]
    part = select_videos(names, [listing.subjects[n] for n in videos], confirm, seed)
    kept = np.array([part[listing.names[n]] == "confirm" for n in listing.video[rows]])
    parts = {"validation": np.full(len(rows), True)} | ({"confirm": kept} if confirm else {})
    results = {}
    for name, rows_of_part in parts.items():
        at = rows[rows_of_part]
        labelled = outputs[rows_of_part], listing.values[at], listing.mask[at]
        bootstrapped = bootstrap(*labelled, listing.video[at])
        results[name] = {**scores(*labelled), "interval": intervals(bootstrapped)}
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the scores of ridge regression as a Markdown table with a row for each set of videos.

    Args:
        results: The dict that ``ridge_scores`` returns: for each set of videos, the scores by name
            and, under the key ``interval``, a dict of the 95 % interval of each score.
    """
    lines = [f"| ridge | {' | '.join(SHOWN_SCORES)} |", f"|---|{'---:|' * len(SHOWN_SCORES)}"]
    for name, result in results.items():
        cells = [_cell(result, key) for key in SHOWN_SCORES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(result: dict[str, Any], key: str) -> str:
    if result[key] is None:
        return "-"
    low, high = result["interval"][key]
    return f"{result[key]:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Fit ridge regressions on a dataset, and print the validation scores as a table and JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="a dataset directory or address")
    parser.add_argument("--confirm", type=float, default=0.5, help="share of validation videos")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument(
        "--smooth-seconds", type=float, nargs="*", default=[], help="lengths of the windows"
    )
    parser.add_argument("--fps", type=float, default=30, help="frames per second")
    args = parser.parse_args()
    radii_frames = [seconds / 2 * args.fps for seconds in args.smooth_seconds]
    dataset = open_dataset(args.data)
    results = ridge_scores(dataset, radii_frames, args.confirm, args.seed)
    print(table(results))
    print(json.dumps({"benchmark": "ridge", "data": Path(args.data).name, **results}))


if __name__ == "__main__":
    run_program(main)
