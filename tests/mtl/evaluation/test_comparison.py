"""Comparison of variants: means over seeds, paired differences over videos, Holm's correction."""

from typing import Any

import numpy as np
import pytest

from mtl.evaluation import metrics
from mtl.evaluation.bootstrap import bootstrap
from mtl.evaluation.comparison import ALL, compare, holm
from mtl.predictions.table import outputs_of
from mtl.tasks import TASKS
from tests.support.laws import labels

VIDEOS, FRAMES = 12, 30


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    values, mask = labels(VIDEOS * FRAMES, np.random.default_rng(0))
    return {"labels": values, "mask": mask, "video": np.repeat(np.arange(VIDEOS), FRAMES)}


def guess(truth: dict[str, Any], noise: float, seed: int, without: str = "") -> np.ndarray:
    random = np.random.default_rng(seed)
    exact = outputs_of(truth["labels"], np.ones_like(truth["mask"]))
    outputs = (exact + noise * random.normal(size=exact.shape)).astype(np.float32)
    if without:
        outputs[:, TASKS[without].outputs] = np.nan
    return outputs


def test_means_and_differences_are_those_of_pooled_scores(truth) -> None:
    variants = {
        variant: [guess(truth, noise, seed) for seed in (0, 1, 2)]
        for variant, noise in (("a", 1.0), ("b", 0.5))
    }
    found = compare(variants, **truth)
    assert list(found) == [ALL, *TASKS]
    for variant, seeds in variants.items():
        scores = [metrics.scores(one, truth["labels"], truth["mask"]) for one in seeds]
        for name, task in TASKS.items():
            expected = [score[f"{task.score}_{name}"] for score in scores]
            assert found[name][variant].scores == pytest.approx(expected)
            assert found[name][variant].mean == pytest.approx(np.mean(expected))
        assert found[ALL][variant].scores == pytest.approx(
            [score["p_labelled"] for score in scores]
        )
    assert found["valence"]["a"].difference is None
    gain = found["valence"]["b"].difference
    assert gain.mean == pytest.approx(found["valence"]["b"].mean - found["valence"]["a"].mean)
    assert gain.interval[0] < gain.mean < gain.interval[1]


def test_the_interval_and_p_are_those_of_paired_draws(truth) -> None:
    one, other = guess(truth, 1.0, 0), guess(truth, 0.5, 1)
    found = compare({"a": [one], "b": [other]}, **truth)
    variants = [bootstrap(x, truth["labels"], truth["mask"], truth["video"]) for x in (one, other)]
    for name, column in ((ALL, "p_labelled"), ("arousal", "ccc_arousal")):
        gain = variants[1][column] - variants[0][column]
        assert found[name]["b"].difference.interval == pytest.approx(gain.interval())
        assert found[name]["b"].difference.p == pytest.approx(gain.p_value())


def test_equal_outputs_do_not_differ(truth) -> None:
    one = guess(truth, 1.0, 0)
    found = compare({"a": [one, one], "b": [one, one]}, **truth)
    for by_variant in found.values():
        assert by_variant["b"].difference.interval == (0, 0)
        assert by_variant["b"].difference.mean == 0
        assert by_variant["b"].difference.p == 1


def test_a_variant_that_is_better_in_every_video_is_significant(truth) -> None:
    found = compare({"a": [guess(truth, 3.0, 0)], "b": [guess(truth, 0.1, 1)]}, **truth)
    for name in (ALL, *TASKS):
        assert found[name]["b"].difference.interval[0] > 0
        assert found[name]["b"].difference.p < 0.01


def test_a_task_is_compared_among_the_variants_that_predict_it(truth) -> None:
    variants = {
        "none": [guess(truth, 1.0, 0, without="valence")],
        "first": [guess(truth, 1.0, 1)],
        "second": [guess(truth, 0.1, 2)],
    }
    found = compare(variants, **truth)
    assert ALL not in found
    assert list(found["valence"]) == ["first", "second"]
    assert found["valence"]["first"].difference is None
    assert found["valence"]["second"].difference.mean > 0
    assert list(found["arousal"]) == list(variants)


def test_a_task_without_labels_is_left_out(truth) -> None:
    mask = truth["mask"].copy()
    mask[:, TASKS["expression"].labels] = False
    found = compare(
        {"a": [guess(truth, 1.0, 0)], "b": [guess(truth, 1.0, 1)]},
        truth["labels"],
        mask,
        truth["video"],
    )
    assert "expression" not in found
    assert ALL in found


def test_holm_golden_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_false_positives_are_as_rare_as_the_level() -> None:
    """Five equally good variants on 40 videos differ significantly in at most 12 of 100 cases."""
    found = 0
    for seed in range(100):
        values, mask = labels(40 * 5, np.random.default_rng(seed))
        for task in TASKS.values():
            mask[:, task.labels] &= task.name == "action_units"
        case = {"labels": values, "mask": mask, "video": np.repeat(np.arange(40), 5)}
        variants = {str(variant): [guess(case, 1.0, 1000 * seed + variant)] for variant in range(5)}
        by_variant = compare(variants, **case)["action_units"]
        found += any(
            s.difference is not None and s.difference.p < 0.05 for s in by_variant.values()
        )
    assert found <= 12
