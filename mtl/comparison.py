"""Which of several ways is better: means over seeds, their differences, and how sure they are.

Each way was trained with several seeds. A way's score is the mean over its seeds of pooled scores;
its difference to the first way that has the task carries a paired bootstrap over videos (the same
videos are drawn for all ways and seeds), and within a task the p-values are Holm's.

Shapes: N frames, V videos, R draws, S sums of a task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mtl import metrics
from mtl.bootstrap import draw_videos, interval
from mtl.tasks import TASKS

LEVEL = 0.05
"""Of p, below which a difference is called one."""
ALL = "all"
"""The sum over the tasks, where all ways have the same."""


@dataclass(frozen=True)
class Difference:
    """A way against the reference.

    Attributes:
        mean: Of the difference of pooled scores.
        interval: Its central 95 % over draws of videos.
        p: Two-sided, of no difference, corrected for all ways compared in this task.
    """

    mean: float
    interval: tuple[float, float]
    p: float


@dataclass(frozen=True)
class Standing:
    """A way in one task.

    Attributes:
        scores: The pooled score of each seed.
        difference: To the reference; None for the reference itself.
    """

    scores: tuple[float, ...]
    difference: Difference | None

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(self.scores))


@dataclass(frozen=True)
class _Scored:
    """Pooled scores: of each seed, and of each draw their mean over seeds."""

    seeds: Float[np.ndarray, " K"]
    draws: Float[np.ndarray, " R"]


def compare(
    ways: Mapping[str, Sequence[Float[np.ndarray, "N 22"]]],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
    video: Int[np.ndarray, " N"],
) -> dict[str, dict[str, Standing]]:
    """Of each task (and of ``ALL``) how each way stands; a task that no way has is left out.

    Args:
        ways: The outputs of each way with each of its seeds; the first one that has a task is what
            the others are compared with.
        labels: With ``mask``: what is known.
        mask: See there.
        video: Of each frame.
    """
    _, group = np.unique(video, return_inverse=True)
    counts = draw_videos(int(group.max()) + 1)
    scored: dict[str, dict[str, _Scored]] = {}
    for name, task in TASKS.items():
        known = mask[:, task.labels]
        for way, seeds in ways.items():
            outputs = [one[:, task.outputs] for one in seeds]
            if not known.any() or not outputs or any(np.isnan(one).all() for one in outputs):
                continue
            sums = [
                metrics.task_sums_by_group(
                    task, one, labels[:, task.labels], known, group, counts.shape[1]
                )
                for one in outputs
            ]
            scored.setdefault(name, {})[way] = _Scored(
                np.array([metrics.task_scores(task, s.sum(axis=0)) for s in sums]),
                np.mean([metrics.task_scores(task, counts @ s) for s in sums], axis=0),
            )
    together = _together(scored, ways)
    return {name: _standings(found) for name, found in {**together, **scored}.items()}


def _together(
    scored: Mapping[str, Mapping[str, _Scored]], ways: Mapping[str, object]
) -> dict[str, dict[str, _Scored]]:
    if not scored or any(found.keys() != ways.keys() for found in scored.values()):
        return {}
    summed = {}
    for way in ways:
        seeds = metrics.combine({name: found[way].seeds for name, found in scored.items()})
        draws = metrics.combine({name: found[way].draws for name, found in scored.items()})
        summed[way] = _Scored(np.asarray(seeds), np.asarray(draws))
    return {ALL: summed}


def _standings(scored: Mapping[str, _Scored]) -> dict[str, Standing]:
    first, *others = scored
    reference = scored[first]
    gains = {way: scored[way].draws - reference.draws for way in others}
    corrected = dict(zip(others, holm([p_value(gains[way]) for way in others]), strict=True))
    standings = {first: Standing(tuple(reference.seeds.tolist()), None)}
    for way in others:
        mean = float(scored[way].seeds.mean() - reference.seeds.mean())
        difference = Difference(mean, interval(gains[way]), corrected[way])
        standings[way] = Standing(tuple(scored[way].seeds.tolist()), difference)
    return standings


def p_value(draws: Float[np.ndarray, " R"]) -> float:
    """Two-sided, of no difference: twice the share of draws on the smaller side of 0, never 0."""
    side = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(min(1.0, 2 * (1 + side) / (1 + len(draws))))


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected so that the chance of any false finding stays below their level
    (Holm 1979).
    """
    order = np.argsort(p)
    steps = np.array(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(steps).clip(max=1)
    return [float(value) for value in corrected]
