"""Comparison of variants of a model: mean scores over seeds, differences and their p-values.

A variant is one of the configurations to compare, trained with several seeds. The score of a
variant is the mean over its seeds of pooled scores. The reference of a task is the first variant
that predicts the task. The difference of a variant to the reference has an interval and a p-value
from a paired bootstrap: the same videos are drawn for all variants and seeds. The p-values of a
task are corrected by Holm's method.

Shapes: N frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mtl.evaluation.bootstrap import BootstrapScore, bootstrap, weighted_sum
from mtl.tasks import TASKS

SIGNIFICANCE_LEVEL = 0.05
"""Corrected p-value below which a difference counts as significant."""
ALL = "all"
"""Key of the sum over all tasks; present if all variants predict the same tasks."""


@dataclass(frozen=True)
class Difference:
    """Difference of one variant's score to the reference's in one task.

    Attributes:
        mean: Difference of the mean scores over seeds.
        interval: 95 % confidence interval of the difference, from the paired bootstrap over videos.
        p: Two-sided p-value of the hypothesis of no difference, corrected for the number of
            variants compared in the task.
    """

    mean: float
    interval: tuple[float, float]
    p: float


@dataclass(frozen=True)
class VariantScores:
    """Scores of one variant in one task.

    Attributes:
        scores: Pooled score of each seed.
        difference: Difference to the reference; None for the reference itself.
    """

    scores: tuple[float, ...]
    difference: Difference | None

    @property
    def mean(self) -> float:
        """Mean score over seeds."""
        return float(np.mean(self.scores))


def compare(
    variants: Mapping[str, Sequence[Float[np.ndarray, "N 22"]]],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
    video: Int[np.ndarray, " N"],
) -> dict[str, dict[str, VariantScores]]:
    """Compare variants in each task, and in the sum over the tasks.

    Args:
        variants: Predictions of each variant with each of its seeds, in the columns
            ``OUTPUT_COLUMNS``; NaN for a task not predicted.
        labels: Labels in the columns ``LABEL_COLUMNS``.
        mask: True where a label is present.
        video: Number of each frame's video.

    Returns:
        The scores by task and variant. A task without labels or predictions is left out; ``ALL`` is
        present if all variants predict the same tasks.
    """
    scored: dict[str, dict[str, list[BootstrapScore]]] = {}
    for variant, seeds in variants.items():
        scores = [bootstrap(outputs, labels, mask, video) for outputs in seeds]
        for name, of_seeds in _scores_by_task(scores).items():
            scored.setdefault(name, {})[variant] = of_seeds
    sums = scored.pop(ALL, {})
    same_tasks = all(of_task.keys() == variants.keys() for of_task in scored.values())
    if sums.keys() != variants.keys() or not same_tasks:
        sums = {}
    order = [name for name in TASKS if name in scored]
    by_task = {name: _variant_scores(scored[name]) for name in order}
    return {ALL: _variant_scores(sums), **by_task} if sums else by_task


def _scores_by_task(
    seeds: Sequence[Mapping[str, BootstrapScore]],
) -> dict[str, list[BootstrapScore]]:
    """Return the scores of all seeds, by task (and ``ALL``), if every seed has the task's score."""
    names = {"p_labelled": ALL, **{f"{task.score}_{name}": name for name, task in TASKS.items()}}
    return {
        task: [seed[name] for seed in seeds]
        for name, task in names.items()
        if seeds and all(name in seed for seed in seeds)
    }


def _variant_scores(scored: Mapping[str, Sequence[BootstrapScore]]) -> dict[str, VariantScores]:
    reference, *others = scored
    means = {
        variant: weighted_sum(seeds, [1 / len(seeds)] * len(seeds))
        for variant, seeds in scored.items()
    }
    gains = {variant: means[variant] - means[reference] for variant in others}
    corrected = dict(
        zip(others, holm([gains[variant].p_value() for variant in others]), strict=True)
    )
    return {
        variant: VariantScores(
            tuple(seed.score for seed in seeds),
            None
            if variant == reference
            else Difference(gains[variant].score, gains[variant].interval(), corrected[variant]),
        )
        for variant, seeds in scored.items()
    }


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons (Holm 1979).

    Rejecting the hypotheses with a corrected p-value below a level keeps the probability of any
    false rejection below that level.

    Args:
        p: Uncorrected p-values.
    """
    order = np.argsort(p)
    steps = np.array(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(steps).clip(max=1)
    return [float(value) for value in corrected]
