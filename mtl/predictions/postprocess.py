"""What is done to predictions before they are decided: smoothing, an expression bias, thresholds.

Smoothing goes by frame number, within one video, on values and probabilities. A bias and a
threshold move probabilities, so that what decides stays the largest, and 0.5. All of it is chosen
on labels that it has then seen: the `select` frames only.

Shapes: N frames in any order, W columns, L label columns.
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

from mtl.evaluation.metrics import task_score, task_sums
from mtl.tasks import EXPRESSION, TASKS, UNITS, Task

Candidate = TypeVar("Candidate")
Kind = Literal["box", "gaussian"]
STEPS = ("smoothing", "bias", "thresholds")
FILTERS: dict[Kind, Callable[[np.ndarray, int], np.ndarray]] = {
    "box": lambda path, radius: uniform_filter1d(path, 2 * radius + 1, axis=0, mode="constant"),
    "gaussian": lambda path, deviation: oaconvolve(
        path,
        gaussian(2 * FILTER_REACH["gaussian"] * deviation + 1, deviation)[:, None],
        mode="same",
        axes=0,
    ),
}
FILTER_REACH: dict[Kind, int] = {"box": 1, "gaussian": 4}
"""How far a filter looks, in its widths."""
WIDTHS_FRAMES: dict[Kind, tuple[int, ...]] = {
    "box": (0, 2, 5, 10, 20, 40, 80, 160, 320),
    "gaussian": (1, 3, 6, 12, 23, 46, 92, 185),  # the standard deviations of these boxes
}
BIAS_STRENGTHS = tuple(np.linspace(0, 1.5, 13))
THRESHOLDS = tuple(np.linspace(0.02, 0.98, 49))
SCORE_TOLERANCE = 1e-12  # scores closer than this differ by rounding only
PROBABILITY_MARGIN = 1e-7  # probabilities are kept this far from 0 and 1


@dataclass(frozen=True)
class Smoothing:
    """A moving average: ``box`` over the frames at most ``width_frames`` away, or ``gaussian`` with
    that standard deviation, each frame that is there with its weight. Width 0 changes nothing.
    """

    kind: Kind = "box"
    width_frames: int = 0


@dataclass(frozen=True)
class Postprocessing:
    """What was chosen.

    Attributes:
        smoothing: Of each task that is smoothed.
        bias: Added to the log probability of each expression.
        thresholds: From which each action unit is on.
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
        """The outputs with all of it done."""
        done = outputs.copy()
        for name, smoothing in self.smoothing.items():
            where = TASKS[name].outputs
            done[:, where] = smooth(
                outputs[:, where], video, frame, smoothing.width_frames, smoothing.kind
            )
        if self.bias:
            bias = np.array(self.bias)
            done[:, EXPRESSION.outputs] = apply_bias(done[:, EXPRESSION.outputs], bias)
        if self.thresholds:
            thresholds = np.array(self.thresholds)
            done[:, UNITS.outputs] = apply_thresholds(done[:, UNITS.outputs], thresholds)
        return done


def smooth(
    values: Float[np.ndarray, "N W"],
    video: Integer[np.ndarray, " N"],
    frame: Integer[np.ndarray, " N"],
    width_frames: int,
    kind: Kind = "box",
) -> Float[np.ndarray, "N W"]:
    """The moving average of each column over the given frames of the same video.

    The distance is one of frame numbers, not of rows: listed frames are irregular. Width 0 gives
    the values back. A column is wholly NaN (and stays so) or holds no NaN.
    """
    if width_frames == 0 or not len(values):
        return values.copy()
    # One axis for all videos, a frame number a place; no filter looks further than ``apart``.
    apart = FILTER_REACH[kind] * width_frames + 1
    order = np.lexsort((frame, video))
    gaps = np.where(np.diff(video[order]), apart, np.diff(frame[order]).astype(np.int64))
    place = np.zeros(len(values), np.int64)
    place[order[1:]] = np.minimum(gaps, apart).cumsum()
    path = np.zeros((int(place.max()) + 1, values.shape[1] + 1))
    path[place] = np.column_stack([values, np.ones(len(values))])
    filtered = FILTERS[kind](path, width_frames)[place]
    return np.asarray(filtered[:, :-1] / filtered[:, -1:], values.dtype)


def apply_bias(
    probabilities: Float[np.ndarray, "N W"], bias: Float[np.ndarray, " W"]
) -> Float[np.ndarray, "N W"]:
    """p exp(bias), each row again of sum 1."""
    scaled = probabilities * np.exp(bias.astype(probabilities.dtype))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


def apply_thresholds(
    probabilities: Float[np.ndarray, "N W"], thresholds: Float[np.ndarray, " W"]
) -> Float[np.ndarray, "N W"]:
    """Probabilities whose logits are moved so that 0.5 stands where each threshold stood."""
    p = probabilities.astype(np.float64).clip(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    moved = expit(logit(p) - logit(thresholds))
    # What is at or above its threshold must not round to below 0.5, nor the other way round.
    on = probabilities >= thresholds
    kept = np.where(on, moved.clip(min=0.5), moved.clip(max=0.5 - PROBABILITY_MARGIN))
    return np.asarray(kept, probabilities.dtype)


def choose(
    outputs: Float[np.ndarray, "N 22"],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
    video: Integer[np.ndarray, " N"],
    frame: Integer[np.ndarray, " N"],
    prior: Float[np.ndarray, "22"],
    steps: Iterable[str] = STEPS,
) -> Postprocessing:
    """What scores best on these frames, step after step: smoothing, then bias and thresholds.

    Equal scores go to the lesser change; a task without outputs or labels here is left alone.

    Args:
        outputs: Values and probabilities.
        labels: With ``mask``: what is known.
        video: Of each frame.
        frame: Its number.
        prior: How frequent each class is in training (``mtl.sequences.join.training_prior``).
        steps: Those of ``STEPS`` that are wanted.
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
    found = Postprocessing(smoothing)
    outputs = found(outputs, video, frame)
    bias: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    if "bias" in steps and EXPRESSION in scored:
        where, own = EXPRESSION.outputs, EXPRESSION.labels
        bias = choose_bias(outputs[:, where], labels[:, own], mask[:, own], prior[where])
    if "thresholds" in steps and UNITS in scored:
        where, own = UNITS.outputs, UNITS.labels
        thresholds = choose_thresholds(outputs[:, where], labels[:, own], mask[:, own])
    return Postprocessing(smoothing, bias, thresholds)


def choose_smoothing(
    task: Task,
    outputs: Float[np.ndarray, "N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    video: Integer[np.ndarray, " N"],
    frame: Integer[np.ndarray, " N"],
) -> Smoothing:
    """Of ``WIDTHS_FRAMES`` the filter whose smoothed outputs score best; none if none is better."""
    candidates = [
        Smoothing(kind, width) for kind, widths in WIDTHS_FRAMES.items() for width in widths
    ]

    def scored(smoothing: Smoothing) -> float:
        smoothed = smooth(outputs, video, frame, smoothing.width_frames, smoothing.kind)
        return _score(task, smoothed, labels, mask)

    return _best(candidates, scored)


def choose_bias(
    probabilities: Float[np.ndarray, "N 8"],
    labels: Float[np.ndarray, "N 1"],
    mask: Bool[np.ndarray, "N 1"],
    prior: Float[np.ndarray, " 8"],
) -> tuple[float, ...]:
    """-strength x log prior, which lifts rare classes, with the best strength (Menon et al. 2021).

    One number is chosen and not eight: there may be ten videos to choose on.
    """
    rarity = -np.log(prior.astype(np.float64).clip(1e-4))
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
    """For each unit that of ``THRESHOLDS`` with the best F1; of equals the nearest to 0.5."""
    thresholds = sorted(THRESHOLDS, key=lambda t: abs(t - 0.5))
    scores = np.stack([_unit_scores(probabilities >= t, labels, mask) for t in thresholds])
    best = np.argmax(scores >= scores.max(axis=0) - SCORE_TOLERANCE, axis=0)
    return tuple(float(thresholds[place]) for place in best)


def _unit_scores(on: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """F1 of each unit, 0 where it is never on."""
    actual = (labels > 0.5) & mask
    on = on & mask
    total = on.sum(axis=0) + actual.sum(axis=0)
    return np.asarray(2 * (on & actual).sum(axis=0) / np.maximum(total, 1))


def _score(task: Task, outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> float:
    score = task_score(task, task_sums(task, outputs, labels, mask))
    return -np.inf if score is None else score


def _best(candidates: Sequence[Candidate], scored: Callable[[Candidate], float]) -> Candidate:
    """The first of those that score best."""
    scores = [scored(candidate) for candidate in candidates]
    return candidates[int(np.argmax(np.array(scores) >= max(scores) - SCORE_TOLERANCE))]
