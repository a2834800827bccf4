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

from mtl.evaluation.bootstrap import BootstrapScore, bootstrap, weighted_sum
from mtl.tasks import TASKS

SIGNIFICANCE_LEVEL = 0.05
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
class VariantScores:
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


def compare(
    ways: Mapping[str, Sequence[Float[np.ndarray, "N 22"]]],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
    video: Int[np.ndarray, " N"],
) -> dict[str, dict[str, VariantScores]]:
    """Of each task (and of ``ALL``) how each way stands; a task that no way has is left out.

    Args:
        ways: The outputs of each way with each of its seeds; the first one that has a task is what
            the others are compared with.
        labels: With ``mask``: what is known.
        mask: See there.
        video: Of each frame.
    """
    scored: dict[str, dict[str, list[BootstrapScore]]] = {}
    for way, seeds in ways.items():
        for name, found in _of_all_seeds(
            [bootstrap(o, labels, mask, video) for o in seeds]
        ).items():
            scored.setdefault(name, {})[way] = found
    together = scored.pop(ALL, {})
    if together.keys() != ways.keys() or any(of.keys() != ways.keys() for of in scored.values()):
        together = {}
    order = [name for name in TASKS if name in scored]
    standings = {name: _standings(scored[name]) for name in order}
    return {ALL: _standings(together), **standings} if together else standings


def _of_all_seeds(seeds: Sequence[Mapping[str, BootstrapScore]]) -> dict[str, list[BootstrapScore]]:
    """Each task's scores (and those of ``ALL``) as far as every seed has them."""
    names = {"p_labelled": ALL, **{f"{task.score}_{name}": name for name, task in TASKS.items()}}
    return {
        own: [seed[name] for seed in seeds]
        for name, own in names.items()
        if seeds and all(name in seed for seed in seeds)
    }


def _standings(scored: Mapping[str, Sequence[BootstrapScore]]) -> dict[str, VariantScores]:
    first, *others = scored
    means = {
        way: weighted_sum(seeds, [1 / len(seeds)] * len(seeds)) for way, seeds in scored.items()
    }
    gains = {way: means[way] - means[first] for way in others}
    corrected = dict(zip(others, holm([gains[way].p_value() for way in others]), strict=True))
    return {
        way: VariantScores(
            tuple(seed.score for seed in seeds),
            None
            if way == first
            else Difference(gains[way].score, gains[way].interval(), corrected[way]),
        )
        for way, seeds in scored.items()
    }


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected so that the chance of any false finding stays below their level
    (Holm 1979).
    """
    order = np.argsort(p)
    steps = np.array(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(steps).clip(max=1)
    return [float(value) for value in corrected]
