"""Post-processing of predictions: smoothing over time, expression bias, action unit thresholds.

Smoothing averages values and probabilities over neighbouring frame numbers of one video. The bias
changes the probabilities of the expressions, and the thresholds change those of the action units,
so that afterwards the most probable expression and the threshold 0.5 decide. The parameters are
chosen to score best on labelled frames, which must be of ``select`` videos only (validation videos
on which choices are made).

Shapes: N frames in any order, W outputs of a task, L label columns of a task.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.ndimage import uniform_filter1d
from scipy.signal import oaconvolve
from scipy.signal.windows import gaussian
from scipy.special import expit, logit

from mtl.evaluation.metrics import DECISION_THRESHOLD, task_score, task_sums
from mtl.tasks import EXPRESSION, TASKS, UNITS, Task

Candidate = TypeVar("Candidate")
Kind = Literal["box", "gaussian"]
STEPS = ("smoothing", "bias", "thresholds")
"""Post-processing steps in the order in which they are chosen and applied."""
FILTERS: dict[Kind, Callable[[np.ndarray, int], np.ndarray]] = {
    "box": lambda rows, radius: uniform_filter1d(rows, 2 * radius + 1, axis=0, mode="constant"),
    "gaussian": lambda rows, deviation: oaconvolve(
        rows,
        gaussian(2 * FILTER_REACH["gaussian"] * deviation + 1, deviation)[:, None],
        mode="same",
        axes=0,
    ),
}
"""Smoothing function of each kind: takes rows of consecutive frames and a width in frames."""
FILTER_REACH: dict[Kind, int] = {"box": 1, "gaussian": 4}
"""Largest distance of an averaged frame, in multiples of the width, by the kind of smoothing."""
WIDTHS_FRAMES: dict[Kind, tuple[int, ...]] = {
    "box": (0, 2, 5, 10, 20, 40, 80, 160, 320),
    "gaussian": (1, 3, 6, 12, 23, 46, 92, 185),  # standard deviations of the boxes above
}
"""Widths in frames among which the smoothing of a task is chosen, by the kind of smoothing."""
BIAS_STRENGTHS = tuple(np.linspace(0, 1.5, 13))
"""Factors of the log class frequencies among which the expression bias is chosen."""
THRESHOLDS = tuple(np.linspace(0.02, 0.98, 49))
"""Probabilities among which the threshold of each action unit is chosen."""
MIN_CLASS_FREQUENCY = 1e-4
"""Lower bound of an expression's training frequency in the bias; replaces lower frequencies."""
SCORE_TOLERANCE = 1e-12
"""Largest difference of two scores that count as equal, because it can be a rounding error."""
PROBABILITY_MARGIN = 1e-7
"""Smallest distance of a probability to 0 and to 1; clipping to it keeps logits finite."""


@dataclass(frozen=True)
class Smoothing:
    """Settings of a moving average over the predicted frames of a video.

    Attributes:
        kind: ``box`` weighs all frames up to ``width_frames`` away equally; ``gaussian`` weighs
            frames by a Gaussian with standard deviation ``width_frames``.
        width_frames: Width in frame numbers; 0 disables smoothing.
    """

    kind: Kind = "box"
    width_frames: int = 0


@dataclass(frozen=True)
class Postprocessing:
    """Settings of the post-processing of a model's predictions, callable on predictions.

    Attributes:
        smoothing: Smoothing of each task that is smoothed, by the task's name.
        bias: Number added to the log probability of each expression; empty for none.
        thresholds: Smallest probability with which each action unit is active; empty for 0.5.
    """

    smoothing: dict[str, Smoothing] = field(default_factory=dict)
    bias: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()

    def __call__(
        self,
        outputs: Float[np.ndarray, "N 22"],
        video: Integer[np.ndarray, " N"],
        frame: Integer[np.ndarray, " N"],
    ) -> Float[np.ndarray, "N 22"]:
        """Return the outputs after smoothing, expression bias and action unit thresholds.

        Args:
            outputs: Values and probabilities in the columns ``OUTPUT_COLUMNS``, (frames, 22).
            video: Number of each frame's video, (frames,).
            frame: Frame number of each frame in its video, (frames,).
        """
        processed = outputs.copy()
        for name, smoothing in self.smoothing.items():
            columns = TASKS[name].outputs
            processed[:, columns] = smooth(
                outputs[:, columns], video, frame, smoothing.width_frames, smoothing.kind
            )
        if self.bias:
            bias = np.array(self.bias)
            processed[:, EXPRESSION.outputs] = apply_bias(processed[:, EXPRESSION.outputs], bias)
        if self.thresholds:
            thresholds = np.array(self.thresholds)
            processed[:, UNITS.outputs] = apply_thresholds(processed[:, UNITS.outputs], thresholds)
        return processed


def smooth(
    values: Float[np.ndarray, "N W"],
    video: Integer[np.ndarray, " N"],
    frame: Integer[np.ndarray, " N"],
    width_frames: int,
    kind: Kind = "box",
) -> Float[np.ndarray, "N W"]:
    """Return the moving average of each column of predictions over the frames of the same video.

    Args:
        values: Values or probabilities, (frames, columns), with frames in any order. A column that
            is all NaN stays NaN; no other column may hold a NaN.
        video: Number of each frame's video, (frames,).
        frame: Frame number of each frame, (frames,). Distances are measured in frame numbers, not
            rows, because the frame numbers of a video may have gaps.
        width_frames: Width in frame numbers; 0 returns the values unchanged.
        kind: ``box`` weighs all frames up to ``width_frames`` away equally; ``gaussian`` weighs
            frames by a Gaussian with this standard deviation.
    """
    if width_frames == 0 or not len(values):
        return values.copy()
    # All videos share one axis with a position for each frame number. Gaps are cut to a distance
    # at which frames do not affect each other, so videos stay separate and memory small.
    unreachable = FILTER_REACH[kind] * width_frames + 1
    order = np.lexsort((frame, video))
    gaps = np.where(np.diff(video[order]), unreachable, np.diff(frame[order]).astype(np.int64))
    position = np.zeros(len(values), np.int64)
    position[order[1:]] = np.minimum(gaps, unreachable).cumsum()
    timeline = np.zeros((int(position.max()) + 1, values.shape[1] + 1))
    timeline[position] = np.column_stack([values, np.ones(len(values))])
    filtered = FILTERS[kind](timeline, width_frames)[position]
    return np.asarray(filtered[:, :-1] / filtered[:, -1:], values.dtype)


def apply_bias(
    probabilities: Float[np.ndarray, "N W"], bias: Float[np.ndarray, " W"]
) -> Float[np.ndarray, "N W"]:
    """Multiply class probabilities by exp(bias) and normalise each row to sum 1.

    Args:
        probabilities: Class probabilities, (frames, classes).
        bias: Number added to the log probability of each class.
    """
    scaled = probabilities * np.exp(bias.astype(probabilities.dtype))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


def apply_thresholds(
    probabilities: Float[np.ndarray, "N W"], thresholds: Float[np.ndarray, " W"]
) -> Float[np.ndarray, "N W"]:
    """Shift the logits of each action unit so that the unit's threshold becomes probability 0.5.

    Args:
        probabilities: Probability of each action unit, (frames, units).
        thresholds: Smallest probability with which each unit is active, (units,).

    Returns:
        The new probabilities, (frames, units); at least 0.5 where the unit is active.
    """
    p = probabilities.astype(np.float64).clip(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    moved = expit(logit(p) - logit(thresholds))
    # Rounding must not move a probability to the other side of 0.5.
    active = probabilities >= thresholds
    above = moved.clip(min=DECISION_THRESHOLD)
    below = moved.clip(max=DECISION_THRESHOLD - PROBABILITY_MARGIN)
    return np.asarray(np.where(active, above, below), probabilities.dtype)


def choose(
    outputs: Float[np.ndarray, "N 22"],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
    video: Integer[np.ndarray, " N"],
    frame: Integer[np.ndarray, " N"],
    prior: Float[np.ndarray, "22"],
    steps: Iterable[str] = STEPS,
) -> Postprocessing:
    """Choose the post-processing of predictions that scores best on the given labelled frames.

    Smoothing is chosen first, then the expression bias and the action unit thresholds on the
    smoothed outputs. Of equal scores the smaller change is chosen. A task without outputs or labels
    is not changed.

    Args:
        outputs: Values and probabilities in the columns ``OUTPUT_COLUMNS``, (frames, 22).
        labels: Labels in the columns ``LABEL_COLUMNS``, (frames, 15).
        mask: True where a label is present, (frames, 15).
        video: Number of each frame's video, (frames,).
        frame: Frame number of each frame in its video, (frames,).
        prior: Mean training label of each of the ``OUTPUT_COLUMNS``; of these the frequency of each
            expression is used.
        steps: Steps to choose: ``smoothing``, ``bias`` and ``thresholds``; the others are left out.
    """
    scored = [
        task
        for task in TASKS.values()
        if mask[:, task.labels].any() and not np.isnan(outputs[:, task.outputs]).all()
    ]
    smoothing: dict[str, Smoothing] = {}
    if "smoothing" in steps:
        for task in scored:
            values = outputs[:, task.outputs]
            known = labels[:, task.labels], mask[:, task.labels]
            smoothing[task.name] = choose_smoothing(task, values, *known, video, frame)
    outputs = Postprocessing(smoothing)(outputs, video, frame)
    bias: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    if "bias" in steps and EXPRESSION in scored:
        columns, label = EXPRESSION.outputs, EXPRESSION.labels
        bias = choose_bias(outputs[:, columns], labels[:, label], mask[:, label], prior[columns])
    if "thresholds" in steps and UNITS in scored:
        units = UNITS.labels
        thresholds = choose_thresholds(outputs[:, UNITS.outputs], labels[:, units], mask[:, units])
    return Postprocessing(smoothing, bias, thresholds)


def choose_smoothing(
    task: Task,
    outputs: Float[np.ndarray, "N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    video: Integer[np.ndarray, " N"],
    frame: Integer[np.ndarray, " N"],
) -> Smoothing:
    """Choose the smoothing of a task's predictions that scores best, among ``WIDTHS_FRAMES``.

    Args:
        task: The task.
        outputs: Values or probabilities of the task, (frames, outputs of the task).
        labels: Labels of the task, (frames, label columns of the task).
        mask: True where a label is present, in the shape of ``labels``.
        video: Number of each frame's video, (frames,).
        frame: Frame number of each frame in its video, (frames,).

    Returns:
        The best smoothing; width 0 (none) if no smoothing scores better than none.
    """
    candidates = [
        Smoothing(kind, width) for kind, widths in WIDTHS_FRAMES.items() for width in widths
    ]

    def score(smoothing: Smoothing) -> float:
        smoothed = smooth(outputs, video, frame, smoothing.width_frames, smoothing.kind)
        return _score(task, smoothed, labels, mask)

    return _best(candidates, score)


def choose_bias(
    probabilities: Float[np.ndarray, "N 8"],
    labels: Float[np.ndarray, "N 1"],
    mask: Bool[np.ndarray, "N 1"],
    prior: Float[np.ndarray, " 8"],
) -> tuple[float, ...]:
    """Choose the expression bias with the best F1; it favours rare classes (Menon et al. 2021).

    The bias, which is added to log probabilities, is -strength * log(prior), shifted to mean 0.
    Only the strength is chosen, among ``BIAS_STRENGTHS``, because there may be only ten videos to
    choose on.

    Args:
        probabilities: Probabilities of the expressions, (frames, 8).
        labels: Expression labels, (frames, 1).
        mask: True where a label is present, (frames, 1).
        prior: Frequency of each expression in training.

    Returns:
        The bias of each expression.
    """
    rarity = -np.log(prior.astype(np.float64).clip(MIN_CLASS_FREQUENCY))
    rarity -= rarity.mean()
    strength = _best(
        BIAS_STRENGTHS,
        lambda s: _score(EXPRESSION, apply_bias(probabilities, s * rarity), labels, mask),
    )
    return tuple((strength * rarity).tolist())


def choose_thresholds(
    probabilities: Float[np.ndarray, "N 12"],
    labels: Float[np.ndarray, "N 12"],
    mask: Bool[np.ndarray, "N 12"],
) -> tuple[float, ...]:
    """Choose the threshold of each action unit with the best F1, among ``THRESHOLDS``.

    Args:
        probabilities: Probabilities of the action units, (frames, 12).
        labels: Action unit labels, (frames, 12).
        mask: True where a label is present, (frames, 12).

    Returns:
        The threshold of each unit; of equally good thresholds the nearest to 0.5.
    """
    thresholds = sorted(THRESHOLDS, key=lambda t: abs(t - DECISION_THRESHOLD))
    scores = np.stack([_unit_scores(probabilities >= t, labels, mask) for t in thresholds])
    best = np.argmax(scores >= scores.max(axis=0) - SCORE_TOLERANCE, axis=0)
    return tuple(float(thresholds[index]) for index in best)


def _unit_scores(predicted: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the F1 of each action unit; 0 if a unit is active in no prediction and no label.

    Args:
        predicted: True where a unit is predicted as active, (frames, units).
        labels: 1 where a unit is active, else 0, (frames, units).
        mask: True where a label is present, (frames, units).
    """
    actual = (labels > 0.5) & mask
    predicted = predicted & mask
    total = predicted.sum(axis=0) + actual.sum(axis=0)
    return np.asarray(2 * (predicted & actual).sum(axis=0) / np.maximum(total, 1))


def _score(task: Task, outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> float:
    score = task_score(task, task_sums(task, outputs, labels, mask))
    return -np.inf if score is None else score


def _best(candidates: Sequence[Candidate], score: Callable[[Candidate], float]) -> Candidate:
    """Return the first setting with the best score; scores within ``SCORE_TOLERANCE`` are equal.

    Args:
        candidates: Settings to choose from.
        score: Function that returns the score of a setting.
    """
    scores = [score(candidate) for candidate in candidates]
    return candidates[int(np.argmax(np.array(scores) >= max(scores) - SCORE_TOLERANCE))]
