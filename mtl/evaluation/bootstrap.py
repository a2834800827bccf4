"""How sure a score is: the studentised bootstrap over videos of pooled scores.

Frames of a video are alike, so videos are drawn, not frames; and CCC and F1 are no means over
videos, so each draw is scored on its pooled sums. Such scores are low, and too sure, in few videos:
a rare class that no video shows has F1 0. So a draw is not taken for what another set of videos
would score; it tells how far a score lies from its expectation in units of its own standard error
(Efron and Tibshirani 1993, section 12.5), which holds where draws themselves are off.
``benchmarks/coverage.py`` counts how often the intervals hold what they must.

Shapes: N frames, V videos, R draws, S sums of a task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mtl.evaluation import metrics
from mtl.tasks import TASKS

DRAWS = 1000
SEED = 95
CONFIDENCE_LEVEL = 0.95
MIN_STANDARD_ERROR = 1e-12  # a standard error below it is rounding
BOUNDS = {"ccc": (-1.0, 1.0), "f1": (0.0, 1.0), "p": (-1.0, 3.0)}
"""Of a score, by its kind."""
MAX_DIFFERENCE = 4.0
"""No two scores are further apart."""
MIN_VIDEOS = 3
"""Two videos, drawn with replacement, say nothing of how far others would be."""


@dataclass(frozen=True)
class BootstrapScore:
    """A score of some videos, and what follows from them about another set of videos.

    Scores of the same videos are added and subtracted like numbers: what is said of their
    difference is paired.

    Attributes:
        score: Pooled over all videos.
        draws: Of each draw of as many videos with replacement; NaN where it has no label.
        influence: What one more of each video would add to each draw.
        without: With each video left out.
    """

    score: float
    draws: Float[np.ndarray, " R"]
    influence: Float[np.ndarray, "R V"]
    leave_one_out: Float[np.ndarray, " V"]

    def __add__(self, other: "BootstrapScore") -> "BootstrapScore":
        """The sum of two scores."""
        return weighted_sum([self, other], [1.0, 1.0])

    def __sub__(self, other: "BootstrapScore") -> "BootstrapScore":
        """The difference of two scores."""
        return weighted_sum([self, other], [1.0, -1.0])

    def ratio(self, other: "BootstrapScore") -> "BootstrapScore":
        """The ratio of two scores."""
        ratio = self.draws / other.draws
        influence = (self.influence - ratio[:, None] * other.influence) / other.draws[:, None]
        return BootstrapScore(
            self.score / other.score, ratio, influence, self.leave_one_out / other.leave_one_out
        )

    def standard_error(self) -> float:
        """The jackknife's standard error of the score."""
        known = self.leave_one_out[np.isfinite(self.leave_one_out)]
        return float(np.sqrt(max(len(known) - 1, 0) * known.var())) if len(known) else 0.0

    def t_statistics(self) -> Float[np.ndarray, " r"]:
        """(draw - score) / the draw's own standard error, of those draws that have one."""
        counts = draw_videos(self.influence.shape[1])
        videos = max(self.influence.shape[1], 2)
        errors = np.sqrt((counts * self.influence**2).sum(axis=1) * videos / (videos - 1))
        off = self.draws - self.score
        able = np.isfinite(off) & (errors > MIN_STANDARD_ERROR)
        return np.asarray(off[able] / errors[able])

    def interval(
        self, lowest: float = -MAX_DIFFERENCE, highest: float = MAX_DIFFERENCE
    ) -> tuple[float, float]:
        """95 %, cut to what there can be, which is all that is known of fewer than three videos;
        the score itself where nothing varies.
        """
        if self.influence.shape[1] < MIN_VIDEOS:
            return lowest, highest
        ratios, error = self.t_statistics(), self.standard_error()
        if not len(ratios) or error < MIN_STANDARD_ERROR:
            return self.score, self.score
        tail = 100 * (1 - CONFIDENCE_LEVEL) / 2
        low, high = np.percentile(ratios, [tail, 100 - tail])
        ends = np.clip([self.score - high * error, self.score - low * error], lowest, highest)
        return float(ends[0]), float(ends[1])

    def p_value(self) -> float:
        """Two-sided, of the expectation being 0: never 0, and below 0.05 where the interval does
        not hold 0.
        """
        ratios, error = self.t_statistics(), self.standard_error()
        if not len(ratios) or error < MIN_STANDARD_ERROR:
            return 1.0
        here = self.score / error
        side = min((ratios <= here).sum(), (ratios >= here).sum())
        return float(min(1.0, 2 * (1 + side) / (1 + len(ratios))))


def weighted_sum(parts: Sequence[BootstrapScore], weights: Sequence[float]) -> BootstrapScore:
    """A weighted_sum sum of scores of the same videos."""
    return BootstrapScore(
        sum(w * part.score for w, part in zip(weights, parts, strict=True)),
        np.asarray(sum(w * part.draws for w, part in zip(weights, parts, strict=True))),
        np.asarray(sum(w * part.influence for w, part in zip(weights, parts, strict=True))),
        np.asarray(sum(w * part.leave_one_out for w, part in zip(weights, parts, strict=True))),
    )


def bootstrap(
    outputs: Float[np.ndarray, "N 22"],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
    video: Int[np.ndarray, " N"],
) -> dict[str, BootstrapScore]:
    """Scores with ``DRAWS`` draws of the videos, under the names of ``metrics.scores``. The same
    videos are drawn for every model, so that differences are paired.
    """
    _, group = np.unique(video, return_inverse=True)
    videos = int(group.max()) + 1
    counts = draw_videos(videos)
    found: dict[str, BootstrapScore] = {}
    for name, task in TASKS.items():
        out, known = outputs[:, task.outputs], mask[:, task.labels]
        if known.any() and not np.isnan(out).all():
            sums = metrics.task_sums_by_group(
                task, out, labels[:, task.labels], known, group, videos
            )
            drawn, whole = counts @ sums, sums.sum(axis=0)
            found[name] = BootstrapScore(
                float(metrics.task_scores(task, whole)),
                metrics.task_scores(task, drawn),
                metrics.task_score_gradient(task, drawn) @ sums.T,
                metrics.task_scores(task, whole - sums),
            )
    named = {f"{TASKS[name].score}_{name}": score for name, score in found.items()}
    together = combine_tasks(found)
    return named if together is None else {"p_labelled": together, **named}


def intervals(scores: Mapping[str, BootstrapScore]) -> dict[str, tuple[float, float]]:
    """Of each of ``bootstrap``'s scores, cut to what it can be."""
    return {n: score.interval(*BOUNDS[n.partition("_")[0]]) for n, score in scores.items()}


def combine_tasks(by_task: Mapping[str, BootstrapScore]) -> BootstrapScore | None:
    """``metrics.combine`` of scores of the same videos."""
    if not by_task:
        return None
    concordances = sum(TASKS[name].score == "ccc" for name in by_task)
    weights = [1 / concordances if TASKS[name].score == "ccc" else 1.0 for name in by_task]
    return weighted_sum(list(by_task.values()), weights)


def draw_videos(videos: int) -> Float[np.ndarray, "R V"]:
    """How often each video is in each draw; always the same for as many videos."""
    random = np.random.default_rng(SEED)
    return random.multinomial(videos, np.full(videos, 1 / videos), size=DRAWS).astype(float)
