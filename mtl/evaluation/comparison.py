"""Comparison of variants of a model: mean scores over seeds, score differences and p-values.

A variant is one compared value, such as one encoder, trained with several seeds. The score of a
seed is computed on the frames of all videos together; the score of a variant is the mean over its
seeds. In each task every variant is compared with the reference, which is the first variant that
predicts the task. The confidence interval and the p-value of the difference come from a paired
bootstrap: the same videos are drawn for all variants and seeds. The p-values of a task are
corrected by Holm's method.

Shapes: N frames.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mtl.evaluation.bootstrap import BootstrapScore, bootstrap, weighted_sum
from mtl.tasks import TASKS

SIGNIFICANCE_LEVEL = 0.05
"""Corrected p-value below which the difference of two scores counts as significant."""
ALL = "all"
"""Key of the challenge's score P in a dict whose other keys are the names of the tasks."""


@dataclass(frozen=True)
class Difference:
    """Score of one variant (such as one encoder) minus the reference's score, in one task.

    The reference is the first variant that predicts the task.

    Attributes:
        mean: Mean score of the variant over its seeds, minus the reference's mean over its seeds.
        interval: 95 % confidence interval of the difference, from the paired bootstrap over videos.
        p: Two-sided p-value of the hypothesis of no difference, corrected for the number of
            variants compared in the task.
    """

    mean: float
    interval: tuple[float, float]
    p: float


@dataclass(frozen=True)
class VariantScores:
    """Scores of one variant (one compared value, such as one encoder) in one task.

    Attributes:
        scores: Score of the model of each seed, computed on the frames of all videos together.
        difference: Score of this variant minus the score of the reference (first variant that
            predicts the task), with interval and p-value; None for the reference itself.
    """

    scores: tuple[float, ...]
    difference: Difference | None

    @property
    def mean(self) -> float:
        """Mean of the scores of this variant over its seeds."""
        return float(np.mean(self.scores))


def compare(
    variants: Mapping[str, Sequence[Float[np.ndarray, "N 22"]]],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
    video: Int[np.ndarray, " N"],
) -> dict[str, dict[str, VariantScores]]:
    """Compare the scores of variants (such as encoders) in each task, and in all tasks together.

    Args:
        variants: Predictions of each variant, one array for each seed, in the columns
            ``OUTPUT_COLUMNS``, (frames, 22); NaN for a task not predicted.
        labels: Labels in the columns ``LABEL_COLUMNS``, (frames, 15).
        mask: True where a label is present, (frames, 15).
        video: Number of each frame's video, (frames,).

    Returns:
        For each task, by its name, a dict with the scores of each variant by the variant's name. A
        task without labels or predictions is left out. The key ``ALL`` has the challenge's score P
        in place of a task's score; it is left out unless all variants predict the same tasks.
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
    """Return the score of every seed of one variant, by task.

    Args:
        seeds: Scores of the model of each seed, by score name, such as ``ccc_valence``.

    Returns:
        A dict of lists with one score for each seed, in the order of ``seeds``. The keys are the
        names of the tasks, and ``ALL`` for the challenge's score P. A task without a score for some
        seed is left out.
    """
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

    If all hypotheses with a corrected p-value below a level are rejected, the probability of at
    least one false rejection is below that level.

    Args:
        p: Uncorrected p-values.

    Returns:
        The corrected p-values, in the same order.
    """
    order = np.argsort(p)
    steps = np.array(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(steps).clip(max=1)
    return [float(value) for value in corrected]
