"""Confidence intervals and p-values of scores: the studentised bootstrap over videos.

Frames of one video are correlated, so each draw resamples whole videos with replacement. CCC and F1
are not means over videos, so each draw is scored on the frames of all its videos together. With few
videos the scores of the draws are biased (a rare class that is in no drawn video has F1 0) and vary
too little, so percentiles of these scores would be wrong. The studentised bootstrap (bootstrap-t,
Efron and Tibshirani 1993, section 12.5) instead takes percentiles of t = (draw's score - score) /
draw's standard error. ``benchmarks/coverage.py`` measures how often the intervals contain the true
score.

Shapes: N frames, V videos, R draws, r draws with a t-statistic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mtl.evaluation import metrics
from mtl.tasks import TASKS

DRAWS = 1000
"""Number of bootstrap draws."""
SEED = 95
"""Seed of the bootstrap draws."""
CONFIDENCE_LEVEL = 0.95
"""Probability with which a confidence interval of a score should contain the true score."""
MIN_STANDARD_ERROR = 1e-12
"""Standard error below which a score counts as constant: it can be a mere rounding error."""
BOUNDS = {"ccc": (-1.0, 1.0), "f1": (0.0, 1.0), "p": (-1.0, 3.0)}
"""Lowest and highest possible value of a score, by the prefix of the score's name."""
MAX_DIFFERENCE = 4.0
"""Largest possible difference of two scores: the challenge's score P is between -1 and 3."""
MIN_VIDEOS = 3
"""Smallest number of videos from which a confidence interval is estimated."""


@dataclass(frozen=True)
class BootstrapScore:
    """Score on V videos with R bootstrap draws, for a confidence interval and a p-value.

    Each draw takes V videos with replacement. Scores on the same videos can be added and subtracted
    like numbers. The same videos are drawn for all scores, so the confidence interval and the
    p-value of a difference are those of a paired comparison.

    Attributes:
        score: Score computed on the frames of all videos together.
        draws: Score of each draw, (R,); NaN if no video of the draw has a label.
        influence: Derivative of each draw's score with respect to the number of times that each
            video is counted, (R, V).
        leave_one_out: Score on all videos but one, for each video left out, (V,).
    """

    score: float
    draws: Float[np.ndarray, " R"]
    influence: Float[np.ndarray, "R V"]
    leave_one_out: Float[np.ndarray, " V"]

    def __add__(self, other: "BootstrapScore") -> "BootstrapScore":
        """Return the sum of this score and another score on the same videos."""
        return weighted_sum([self, other], [1.0, 1.0])

    def __sub__(self, other: "BootstrapScore") -> "BootstrapScore":
        """Return this score minus another score on the same videos."""
        return weighted_sum([self, other], [1.0, -1.0])

    def ratio(self, other: "BootstrapScore") -> "BootstrapScore":
        """Return this score divided by another score on the same videos.

        Args:
            other: The divisor.
        """
        ratio = self.draws / other.draws
        influence = (self.influence - ratio[:, None] * other.influence) / other.draws[:, None]
        return BootstrapScore(
            self.score / other.score, ratio, influence, self.leave_one_out / other.leave_one_out
        )

    def standard_error(self) -> float:
        """Return the jackknife estimate of the score's standard error."""
        finite = self.leave_one_out[np.isfinite(self.leave_one_out)]
        return float(np.sqrt(max(len(finite) - 1, 0) * finite.var())) if len(finite) else 0.0

    def t_statistics(self) -> Float[np.ndarray, " r"]:
        """Return t = (draw's score - score) / draw's standard error for the bootstrap draws.

        The standard error of a draw of V videos is estimated by the infinitesimal jackknife,
        sqrt(V / (V - 1) * sum_v c_v * influence_v^2), where c_v counts how often video v is drawn
        and influence_v is the derivative d(draw's score) / d(c_v). Draws without a score, or with
        a standard error of 0, are left out.
        """
        counts = draw_videos(self.influence.shape[1])
        videos = max(self.influence.shape[1], 2)  # avoids a division by zero for one video
        errors = np.sqrt((counts * self.influence**2).sum(axis=1) * videos / (videos - 1))
        deviations = self.draws - self.score
        defined = np.isfinite(deviations) & (errors > MIN_STANDARD_ERROR)
        return np.asarray(deviations[defined] / errors[defined])

    def interval(
        self, lowest: float = -MAX_DIFFERENCE, highest: float = MAX_DIFFERENCE
    ) -> tuple[float, float]:
        """Return the bootstrap's 95 % confidence interval of the score.

        Args:
            lowest: Lowest possible value of the score; the interval is clipped to it.
            highest: Highest possible value of the score; the interval is clipped to it.

        Returns:
            The lower and upper end: ``(lowest, highest)`` for fewer than ``MIN_VIDEOS`` videos, and
            ``(score, score)`` if the score does not vary between the videos.
        """
        if self.influence.shape[1] < MIN_VIDEOS:
            return lowest, highest
        t, error = self.t_statistics(), self.standard_error()
        if not len(t) or error < MIN_STANDARD_ERROR:
            return self.score, self.score
        tail = 100 * (1 - CONFIDENCE_LEVEL) / 2
        low, high = np.percentile(t, [tail, 100 - tail])
        ends = np.clip([self.score - high * error, self.score - low * error], lowest, highest)
        return float(ends[0]), float(ends[1])

    def p_value(self) -> float:
        """Return the two-sided p-value of the hypothesis that the true score is 0.

        The p-value is never 0, and is below 0.05 if the 95 % confidence interval does not contain
        0. It is 1 for fewer than ``MIN_VIDEOS`` videos.
        """
        if self.influence.shape[1] < MIN_VIDEOS:
            return 1.0
        t, error = self.t_statistics(), self.standard_error()
        if not len(t) or error < MIN_STANDARD_ERROR:
            return 1.0
        observed = self.score / error
        smaller_tail = min((t <= observed).sum(), (t >= observed).sum())
        return float(min(1.0, 2 * (1 + smaller_tail) / (1 + len(t))))


def weighted_sum(scores: Sequence[BootstrapScore], weights: Sequence[float]) -> BootstrapScore:
    """Return the weighted sum of scores on the same videos, with its bootstrap draws.

    Args:
        scores: Scores to add.
        weights: Factor of each score.
    """
    return BootstrapScore(
        sum(w * score.score for w, score in zip(weights, scores, strict=True)),
        np.asarray(sum(w * score.draws for w, score in zip(weights, scores, strict=True))),
        np.asarray(sum(w * score.influence for w, score in zip(weights, scores, strict=True))),
        np.asarray(sum(w * score.leave_one_out for w, score in zip(weights, scores, strict=True))),
    )


def bootstrap(
    outputs: Float[np.ndarray, "N 22"],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
    video: Int[np.ndarray, " N"],
) -> dict[str, BootstrapScore]:
    """Score predictions on all videos and on ``DRAWS`` bootstrap draws of the videos.

    All calls with the same number of videos draw the same videos, so the scores of two models can
    be compared in pairs.

    Args:
        outputs: Predictions in the columns ``OUTPUT_COLUMNS``, (frames, 22); NaN for a task not
            predicted.
        labels: Labels in the columns ``LABEL_COLUMNS``, (frames, 15).
        mask: True where a label is present, (frames, 15).
        video: Number of each frame's video, (frames,).

    Returns:
        A dict of scores with the key ``ccc_TASK`` or ``f1_TASK`` for each task that is labelled and
        predicted, and the key ``p_labelled`` for the challenge's score P of these tasks; an empty
        dict if there is no such task.
    """
    _, group = np.unique(video, return_inverse=True)
    videos = int(group.max()) + 1
    counts = draw_videos(videos)
    by_task: dict[str, BootstrapScore] = {}
    for name, task in TASKS.items():
        task_outputs, known = outputs[:, task.outputs], mask[:, task.labels]
        if known.any() and not np.isnan(task_outputs).all():
            sums = metrics.task_sums_by_group(
                task, task_outputs, labels[:, task.labels], known, group, videos
            )
            drawn, pooled = counts @ sums, sums.sum(axis=0)
            by_task[name] = BootstrapScore(
                float(metrics.task_scores(task, pooled)),
                metrics.task_scores(task, drawn),
                metrics.task_score_gradient(task, drawn) @ sums.T,
                metrics.task_scores(task, pooled - sums),
            )
    named = {f"{TASKS[name].score}_{name}": score for name, score in by_task.items()}
    p_labelled = combine_tasks(by_task)
    return named if p_labelled is None else {"p_labelled": p_labelled, **named}


def intervals(scores: Mapping[str, BootstrapScore]) -> dict[str, tuple[float, float]]:
    """Return the 95 % confidence interval of each score, clipped to the score's possible values.

    Args:
        scores: Scores by name, such as ``ccc_valence``.

    Returns:
        The lower and upper end of each interval, by the score's name.
    """
    return {n: score.interval(*BOUNDS[n.partition("_")[0]]) for n, score in scores.items()}


def combine_tasks(by_task: Mapping[str, BootstrapScore]) -> BootstrapScore | None:
    """Return the challenge's score P, with its bootstrap draws, from the scores of the tasks.

    P = (CCC valence + CCC arousal) / 2 + F1 expression + F1 action units. A task without a score is
    left out; if only one of valence and arousal has a score, that score replaces their mean.

    Args:
        by_task: Score of each task on the same videos, by the task's name.

    Returns:
        P, or None if there is no score.
    """
    if not by_task:
        return None
    ccc_tasks = sum(TASKS[name].score == "ccc" for name in by_task)
    weights = [1 / ccc_tasks if TASKS[name].score == "ccc" else 1.0 for name in by_task]
    return weighted_sum(list(by_task.values()), weights)


def draw_videos(videos: int) -> Float[np.ndarray, "R V"]:
    """Draw videos with replacement, ``DRAWS`` times.

    Args:
        videos: Number of videos; each draw has as many. The same number gives the same draws.

    Returns:
        The number of times that each video is in each draw, (draws, videos).
    """
    random = np.random.default_rng(SEED)
    return random.multinomial(videos, np.full(videos, 1 / videos), size=DRAWS).astype(float)
