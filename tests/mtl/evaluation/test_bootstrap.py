"""The bootstrap over videos: against a plain loop, and what it must not depend on."""

import numpy as np
import pytest

from mtl.evaluation import metrics
from mtl.evaluation.bootstrap import (
    DRAWS,
    MAX_DIFFERENCE,
    SEED,
    BootstrapScore,
    bootstrap,
    intervals,
    weighted_sum,
)
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


def counts_of(video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    names = np.unique(video)
    share = np.full(len(names), 1 / len(names))
    return names, np.random.default_rng(SEED).multinomial(len(names), share, size=DRAWS)


def test_each_draw_is_the_score_of_its_pooled_videos() -> None:
    outputs, labels, mask, video = rows()
    names, counts = counts_of(video)
    sampled = bootstrap(outputs, labels, mask, video)
    for draw in range(5):
        times = zip(names, counts[draw], strict=True)
        drawn = np.concatenate([np.tile(np.flatnonzero(video == n), k) for n, k in times])
        expected = metrics.scores(outputs[drawn], labels[drawn], mask[drawn])
        for name, score in sampled.items():
            assert score.draws[draw] == pytest.approx(expected[name])


def test_scores_are_those_of_all_videos_and_without_each() -> None:
    outputs, labels, mask, video = rows()
    sampled = bootstrap(outputs, labels, mask, video)
    whole = metrics.scores(outputs, labels, mask)
    for place, name in enumerate(np.unique(video)):
        rest = video != name
        expected = metrics.scores(outputs[rest], labels[rest], mask[rest])
        for column, score in sampled.items():
            assert score.score == pytest.approx(whole[column])
            assert score.leave_one_out[place] == pytest.approx(expected[column])


def test_influence_is_the_derivatives_by_how_often_a_video_counts() -> None:
    outputs, labels, mask, video = rows()
    names, counts = counts_of(video)
    sampled = bootstrap(outputs, labels, mask, video)
    group, step = np.searchsorted(names, video), 1e-5
    for name, task in TASKS.items():
        own = outputs[:, task.outputs], labels[:, task.labels], mask[:, task.labels]
        sums = metrics.task_sums_by_group(task, *own, group, len(names))
        for place in range(len(names)):
            moved = [
                metrics.task_scores(
                    task, (counts[:3] + sign * step * (names == names[place])) @ sums
                )
                for sign in (1, -1)
            ]
            found = sampled[f"{task.score}_{name}"].influence[:3, place]
            np.testing.assert_allclose(found, (moved[0] - moved[1]) / (2 * step), atol=1e-8)


def test_the_interval_is_the_studentised_bootstrap_by_its_book() -> None:
    """With each draw's error from its own jackknife over what was drawn, far slower."""
    outputs, labels, mask, video = rows(videos=20)
    names, counts = counts_of(video)
    task = TASKS["valence"]
    own = outputs[:, task.outputs], labels[:, task.labels], mask[:, task.labels]
    sums = metrics.task_sums_by_group(task, *own, np.searchsorted(names, video), len(names))

    def score_and_error(drawn: np.ndarray) -> tuple[float, float]:
        score = float(metrics.task_scores(task, drawn.sum(axis=0)))
        without = metrics.task_scores(task, drawn.sum(axis=0) - drawn)
        return score, float(np.sqrt((len(drawn) - 1) * without.var()))

    score, error = score_and_error(sums)
    draws = [score_and_error(np.repeat(sums, drawn, axis=0)) for drawn in counts]
    low, high = np.percentile([(d - score) / e for d, e in draws], [2.5, 97.5])
    found = bootstrap(outputs, labels, mask, video)["ccc_valence"].interval()
    # The jackknife's error of a draw is a few percent above that of its influence.
    assert found == pytest.approx((score - high * error, score - low * error), abs=0.1 * error)


def test_the_interval_holds_the_score_and_narrows_with_more_videos() -> None:
    widths = []
    for videos in (6, 60):
        outputs, labels, mask, video = rows(videos)
        low, high = bootstrap(outputs, labels, mask, video)["p_labelled"].interval()
        assert low < metrics.scores(outputs, labels, mask)["p_labelled"] < high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def test_an_interval_ends_where_scores_do() -> None:
    outputs, labels, mask, video = rows(videos=3)
    score = bootstrap(outputs, labels, mask, video)["f1_expression"]
    low, high = score.interval()
    assert score.interval(low + 0.01, high - 0.01) == (low + 0.01, high - 0.01)
    assert score.interval(low - 0.01, high + 0.01) == (low, high)


def test_order_of_the_rows_does_not_matter() -> None:
    outputs, labels, mask, video = rows()
    order = np.random.default_rng(0).permutation(len(video))
    straight = bootstrap(outputs, labels, mask, video)
    shuffled = bootstrap(outputs[order], labels[order], mask[order], video[order])
    for name, score in straight.items():
        assert shuffled[name].interval() == pytest.approx(score.interval(), rel=1e-9)


def test_a_model_has_no_gain_over_itself() -> None:
    one, same = (bootstrap(*rows())["p_labelled"] for _ in range(2))
    assert (one - same).interval() == (0.0, 0.0)
    assert (one - same).p_value() == 1
    assert one.ratio(same).interval() == (1.0, 1.0)


def test_scores_are_weighted_like_numbers() -> None:
    one, other = (bootstrap(*rows(videos))["p_labelled"] for videos in (6, 6))
    twice = weighted_sum([one, other], [0.5, 1.5])
    assert twice.interval() == pytest.approx([2 * end for end in one.interval()])
    assert (one + other).interval() == pytest.approx(twice.interval())


def test_p_is_below_its_level_where_the_interval_does_not_hold_0() -> None:
    outputs, labels, mask, video = rows(videos=15)
    score = bootstrap(outputs, labels, mask, video)["ccc_valence"]
    low, high = score.interval()
    for shift in np.linspace(low - 0.1, high + 0.1, 41):
        moved = BootstrapScore(
            score.score - shift, score.draws - shift, score.influence, score.leave_one_out - shift
        )
        inside = low < shift < high
        assert (moved.p_value() >= 0.05) == inside or min(
            abs(shift - low), abs(shift - high)
        ) < 0.01


@pytest.mark.parametrize("absent", ["label", "prediction"])
def test_a_task_without_labels_or_predictions_has_no_score(absent: str) -> None:
    outputs, labels, mask, video = rows()
    units = TASKS["action_units"]
    if absent == "label":
        mask[:, units.labels] = False
    else:
        outputs[:, units.outputs] = np.nan
    sampled = bootstrap(outputs, labels, mask, video)
    assert set(sampled) == {"p_labelled", "ccc_valence", "ccc_arousal", "f1_expression"}
    assert sampled["p_labelled"].score == pytest.approx(
        metrics.scores(outputs, labels, mask)["p_labelled"]
    )


def test_of_two_videos_nothing_is_known_but_what_a_score_can_be() -> None:
    few = bootstrap(*rows(videos=2))
    assert few["p_labelled"].interval() == (-MAX_DIFFERENCE, MAX_DIFFERENCE)
    assert intervals(few)["p_labelled"] == (-1, 3)
    assert intervals(few)["ccc_valence"] == (-1, 1)
    assert intervals(few)["f1_expression"] == (0, 1)
    three = intervals(bootstrap(*rows(videos=3)))
    assert three["p_labelled"] != (-1, 3)
