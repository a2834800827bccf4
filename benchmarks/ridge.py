"""Ridge regression on single frames: the floor under every temporal model.

    python benchmarks/ridge.py --data DIR [--confirm 0.5] [--seed 1234]
                               [--smooth-seconds 2 20 --fps 25]

Features of all sets at the listed frames, z-scored, optionally beside their moving averages over
centred windows of the given lengths; one closed-form ridge regression per label column on its
labelled training frames (the expression as eight 0/1 columns, decided by argmax; valence and
arousal cut to [-1, 1]). Whatever is
chosen is chosen per task where out-of-fold predictions over the training videos score best: the
penalty, and whether an action unit is decided at 0.5 or at the value that as many out-of-fold
predictions exceed as training frames are positive. Prints the scores on all validation videos and
on the ``confirm`` part alone, then one JSON line. A minute at most for 22,000 frames and 450
features.
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
ROWS_SHOWN = ("p_labelled", "ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Sums over n rows that a ridge regression needs; sums of disjoint rows add up."""

    n: float
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats

    @classmethod
    def of(cls, x: Floats, y: Floats) -> "Moments":
        """Of features (n, F) and targets (n, C)."""
        return cls(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y)

    def less(self, other: "Moments") -> "Moments":
        """Without the rows of the other."""
        return Moments(
            self.n - other.n,
            self.x - other.x,
            self.y - other.y,
            self.xx - other.xx,
            self.xy - other.xy,
        )

    def solve(self, penalties: Sequence[float]) -> list[tuple[Floats, Floats]]:
        """Weights (F, C) and intercept (C,) for each penalty; the intercept is not penalised."""
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
    """What is regressed on: the label columns (N, c), or a class's 0/1 columns (N, C)."""
    own = labels[:, task.labels].astype(np.float64)
    return own if task.kind != "multiclass" else np.equal(own, np.arange(task.width)) * 1.0


def columns_labelled_alike(
    task: Task, mask: NDArray[np.bool_]
) -> list[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Target columns that are labelled on the same rows, and these rows (N,), where any are."""
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
    """Predictions for each penalty.

    Returns:
        Of the rows of ``x`` (n, F) by regressions on the other folds, (penalties, n, C); of new
        rows (M, F) by one on all, (penalties, M, C).
    """
    whole = Moments.of(x, y)
    own = np.zeros((len(PENALTIES), *y.shape))
    for k in np.unique(fold):
        held = fold == k
        rest = whole.less(Moments.of(x[held], y[held]))
        own[:, held] = [x[held] @ w + b for w, b in rest.solve(PENALTIES)]
    return own, np.array([x_new @ w + b for w, b in whole.solve(PENALTIES)])


def fit_task(
    task: Task,
    x: Floats,
    labels: NDArray[np.float32],
    mask: NDArray[np.bool_],
    fold: NDArray[np.int64],
    x_new: Floats,
) -> Floats:
    """Outputs (M, width) for new rows, NaN where nothing was labelled.

    Args:
        task: One of the four.
        x: Features of the training rows, shape (N, F).
        labels: Shape (N, 15).
        mask: Shape (N, 15).
        fold: The fold of each training row, shape (N,).
        x_new: Shape (M, F).
    """
    y = targets(task, labels)
    guesses = np.full((len(PENALTIES), *y.shape), np.nan)
    final = np.full((len(PENALTIES), len(x_new), y.shape[1]), np.nan)
    for columns, rows in columns_labelled_alike(task, mask):
        own, new = regress(x[rows], y[rows][:, columns], fold[rows], x_new)
        guesses[:, rows[:, None] & np.isin(np.arange(y.shape[1]), columns)] = own.reshape(
            len(PENALTIES), -1
        )
        final[:, :, columns] = new
    if task.kind == "regression":  # as the models' own outputs are
        guesses, final = guesses.clip(-1, 1), final.clip(-1, 1)
    options = [
        (guess + shift, outputs + shift)
        for guess, outputs in zip(guesses, final, strict=True)
        for shift in decision_shifts(task, guess, y, mask[:, task.labels])
    ]
    reached = [score(task, guess, labels, mask) for guess, _ in options]
    return np.asarray(options[int(np.argmax(reached))][1])


def decision_shifts(task: Task, guess: Floats, y: Floats, known: NDArray[np.bool_]) -> list[Floats]:
    """What may be added before a decision at 0.5: nothing, or what meets each unit's prior."""
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
    """The task's score, -inf where nothing is labelled."""
    rows = mask[:, task.labels].any(axis=1)
    sums = task_sums(task, outputs[rows], labels[rows, task.labels], mask[rows, task.labels])
    reached = task_score(task, sums)
    return -np.inf if reached is None else reached


def moving_average(
    values: NDArray[Any], frames: NDArray[np.int32], at: NDArray[np.int32], radius_frames: float
) -> Floats:
    """Mean of the rows whose frame is within the radius of each of ``at``; else of the nearest."""
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=float)])
    nearest = _nearest(frames, at)
    start = np.minimum(np.searchsorted(frames, at - radius_frames, "left"), nearest)
    stop = np.maximum(np.searchsorted(frames, at + radius_frames, "right"), nearest + 1)
    return np.asarray((sums[stop] - sums[start]) / (stop - start)[:, None])


def _nearest(frames: NDArray[np.int32], at: NDArray[np.int32]) -> NDArray[np.int64]:
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
    """Features of some sets (all), and their moving averages, for listed rows, shape (N, F).

    A frame without features has those of the nearest frame of its video; a video without any, NaN.
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
    """One feature set's means around listed rows, over all rows of each video, shape (N, F)."""
    index = dataset.index(name)
    spans = dict(zip(index.names, zip(index.starts, index.starts[1:], strict=False), strict=True))
    out = np.full((len(rows), dataset.width(name)), np.nan)
    for video in np.unique(listing.video[rows]):
        start, stop = map(int, spans.get(listing.names[video], (0, 0)))
        if start < stop:
            own = np.flatnonzero(listing.video[rows] == video)
            values, frames = dataset.read(name, start, stop), index.frames[start:stop]
            out[own] = moving_average(values, frames, listing.frame[rows][own], radius_frames)
    return out


def standardise(x: Floats, train: int) -> Floats:
    """Z-scores by the first ``train`` rows; what is NaN becomes their mean."""
    mean, std = np.nanmean(x[:train], axis=0), np.nanstd(x[:train], axis=0)
    return np.asarray(np.nan_to_num((x - mean) / np.where(std > 0, std, 1)))


def predict_validation(
    dataset: Dataset,
    listing: Listing,
    radii_frames: Sequence[float],
    seed: int,
    sets: Sequence[str] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The validation rows of the listing, (M,), and what regressions on some of the feature sets
    (all) say there, (M, 22).
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
    """Scores on all of ``validation`` and, where ``confirm`` is not 0, on that part alone."""
    listing = dataset.listing()
    rows, outputs = predict_validation(dataset, listing, radii_frames, seed)
    videos = [n for n, split in enumerate(listing.splits) if split == "validation"]
    names = [listing.names[n] for n in videos]
    part = select_videos(names, [listing.subjects[n] for n in videos], confirm, seed)
    kept = np.array([part[listing.names[n]] == "confirm" for n in listing.video[rows]])
    chosen = {"validation": np.full(len(rows), True)} | ({"confirm": kept} if confirm else {})
    results = {}
    for name, own in chosen.items():
        labelled = outputs[own], listing.values[rows][own], listing.mask[rows][own]
        sampled = bootstrap(*labelled, listing.video[rows][own])
        results[name] = {**scores(*labelled), "interval": intervals(sampled)}
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """Scores as Markdown, a row for each part."""
    lines = [f"| ridge | {' | '.join(ROWS_SHOWN)} |", f"|---|{'---:|' * len(ROWS_SHOWN)}"]
    for name, result in results.items():
        cells = [_cell(result, key) for key in ROWS_SHOWN]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(result: dict[str, Any], key: str) -> str:
    if result[key] is None:
        return "-"
    low, high = result["interval"][key]
    return f"{result[key]:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="a dataset directory or address")
    parser.add_argument("--confirm", type=float, default=0.5, help="share of validation videos")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument(
        "--smooth-seconds", type=float, nargs="*", default=[], help="lengths of the windows"
    )
    parser.add_argument("--fps", type=float, default=30, help="what turns seconds into frames")
    asked = parser.parse_args()
    radii_frames = [seconds / 2 * asked.fps for seconds in asked.smooth_seconds]
    dataset = open_dataset(asked.data)
    results = ridge_scores(dataset, radii_frames, asked.confirm, asked.seed)
    print(table(results))
    print(json.dumps({"benchmark": "ridge", "data": Path(asked.data).name, **results}))


if __name__ == "__main__":
    run_program(main)
