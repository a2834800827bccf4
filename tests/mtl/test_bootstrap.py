"""The bootstrap over videos: against a plain loop, and what it must not depend on."""

import numpy as np
import pytest

from mtl import metrics
from mtl.bootstrap import DRAWS, SEED, bootstrap, interval
from mtl.tasks import TASKS

RNG_SEED = 3


def rows(
    videos: int = 6, frames: int = 40
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Outputs, labels, mask and video of a small validation set with every task."""
    random = np.random.default_rng(RNG_SEED)
    number = videos * frames
    labels = np.zeros((number, 15), np.float32)
    labels[:, :2] = random.uniform(-1, 1, (number, 2))
    labels[:, 2] = random.integers(0, 8, number)
    labels[:, 3:] = random.integers(0, 2, (number, 12))
    outputs = random.uniform(0, 1, (number, 22)).astype(np.float32)
    outputs[:, :2] = labels[:, :2] + random.normal(0, 0.5, (number, 2))
    mask = random.random((number, 15)) < 0.7
    return outputs, labels, mask, np.repeat(np.arange(videos) * 7, frames)


def test_each_draw_is_the_score_of_its_pooled_videos() -> None:
    outputs, labels, mask, video = rows()
    draws = bootstrap(outputs, labels, mask, video)
    names = np.unique(video)
    share = np.full(len(names), 1 / len(names))
    counts = np.random.default_rng(SEED).multinomial(len(names), share, size=DRAWS)
    for draw in range(5):
        times = zip(names, counts[draw], strict=True)
        drawn = np.concatenate([np.tile(np.flatnonzero(video == n), k) for n, k in times])
        expected = metrics.scores(outputs[drawn], labels[drawn], mask[drawn])
        for name, values in draws.items():
            assert values[draw] == pytest.approx(expected[name])


def test_the_interval_holds_the_score_and_narrows_with_more_videos() -> None:
    widths = []
    for videos in (6, 60):
        outputs, labels, mask, video = rows(videos)
        low, high = interval(bootstrap(outputs, labels, mask, video)["p_labelled"])
        assert low < metrics.scores(outputs, labels, mask)["p_labelled"] < high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def test_order_of_the_rows_does_not_matter() -> None:
    outputs, labels, mask, video = rows()
    order = np.random.default_rng(0).permutation(len(video))
    straight = bootstrap(outputs, labels, mask, video)
    shuffled = bootstrap(outputs[order], labels[order], mask[order], video[order])
    for name, values in straight.items():
        np.testing.assert_allclose(shuffled[name], values, rtol=1e-9)


def test_a_model_has_no_gain_over_itself() -> None:
    both = [bootstrap(*rows()) for _ in range(2)]
    assert interval(both[0]["p_labelled"] - both[1]["p_labelled"]) == (0.0, 0.0)


@pytest.mark.parametrize("absent", ["label", "prediction"])
def test_a_task_without_labels_or_predictions_has_no_draws(absent: str) -> None:
    outputs, labels, mask, video = rows()
    units = TASKS["action_units"]
    if absent == "label":
        mask[:, units.labels] = False
    else:
        outputs[:, units.outputs] = np.nan
    draws = bootstrap(outputs, labels, mask, video)
    assert set(draws) == {"p_labelled", "ccc_valence", "ccc_arousal", "f1_expression"}
