"""Bootstrap over videos: equal to a plain loop, and independent of the order of rows."""

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
    """Return outputs, labels, mask and video of a small validation set with every task."""
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
    by_name = bootstrap(outputs, labels, mask, video)
    for draw in range(5):
        times = zip(names, counts[draw], strict=True)
        drawn = np.concatenate([np.tile(np.flatnonzero(video == n), k) for n, k in times])
        expected = metrics.scores(outputs[drawn], labels[drawn], mask[drawn])
        for name, score in by_name.items():
            assert score.draws[draw] == pytest.approx(expected[name])


def test_score_and_leave_one_out_scores_equal_metrics() -> None:
    outputs, labels, mask, video = rows()
    by_name = bootstrap(outputs, labels, mask, video)
    pooled = metrics.scores(outputs, labels, mask)
    for place, name in enumerate(np.unique(video)):
        rest = video != name
        expected = metrics.scores(outputs[rest], labels[rest], mask[rest])
        for column, score in by_name.items():
            assert score.score == pytest.approx(pooled[column])
            assert score.leave_one_out[place] == pytest.approx(expected[column])


def test_influence_is_the_derivative_by_the_count_of_a_video() -> None:
    outputs, labels, mask, video = rows()
    names, counts = counts_of(video)
    by_name = bootstrap(outputs, labels, mask, video)
    group, step = np.searchsorted(names, video), 1e-5
    for name, task in TASKS.items():
        task_rows = outputs[:, task.outputs], labels[:, task.labels], mask[:, task.labels]
        sums = metrics.task_sums_by_group(task, *task_rows, group, len(names))
        for place in range(len(names)):
            moved = [
                metrics.task_scores(
                    task, (counts[:3] + sign * step * (names == names[place])) @ sums
                )
                for sign in (1, -1)
            ]
            found = by_name[f"{task.score}_{name}"].influence[:3, place]
            np.testing.assert_allclose(found, (moved[0] - moved[1]) / (2 * step), atol=1e-8)


def test_the_interval_is_the_textbook_studentised_bootstrap() -> None:
    """The textbook computes each draw's standard error by a jackknife of its drawn videos."""
    outputs, labels, mask, video = rows(videos=20)
    names, counts = counts_of(video)
    task = TASKS["valence"]
    task_rows = outputs[:, task.outputs], labels[:, task.labels], mask[:, task.labels]
    sums = metrics.task_sums_by_group(task, *task_rows, np.searchsorted(names, video), len(names))

    def score_and_error(drawn: np.ndarray) -> tuple[float, float]:
        score = float(metrics.task_scores(task, drawn.sum(axis=0)))
        without = metrics.task_scores(task, drawn.sum(axis=0) - drawn)
        return score, float(np.sqrt((len(drawn) - 1) * without.var()))

    score, error = score_and_error(sums)
    draws = [score_and_error(np.repeat(sums, drawn, axis=0)) for drawn in counts]
    low, high = np.percentile([(d - score) / e for d, e in draws], [2.5, 97.5])
    found = bootstrap(outputs, labels, mask, video)["ccc_valence"].interval()
    # A draw's jackknife standard error is a few percent above that from its influences.
    assert found == pytest.approx((score - high * error, score - low * error), abs=0.1 * error)


def test_the_interval_contains_the_score_and_narrows_with_more_videos() -> None:
    widths = []
    for videos in (6, 60):
        outputs, labels, mask, video = rows(videos)
        low, high = bootstrap(outputs, labels, mask, video)["p_labelled"].interval()
        assert low < metrics.scores(outputs, labels, mask)["p_labelled"] < high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def test_an_interval_is_clipped_to_the_possible_scores() -> None:
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


def test_a_model_does_not_differ_from_itself() -> None:
    one, same = (bootstrap(*rows())["p_labelled"] for _ in range(2))
    assert (one - same).interval() == (0.0, 0.0)
    assert (one - same).p_value() == 1
    assert one.ratio(same).interval() == (1.0, 1.0)


def test_scores_add_like_numbers() -> None:
    one, other = (bootstrap(*rows(videos))["p_labelled"] for videos in (6, 6))
    twice = weighted_sum([one, other], [0.5, 1.5])
    assert twice.interval() == pytest.approx([2 * end for end in one.interval()])
    assert (one + other).interval() == pytest.approx(twice.interval())


def test_p_is_below_5_percent_if_the_interval_excludes_0() -> None:
    outputs, labels, mask, video = rows(videos=15)
    score = bootstrap(outputs, labels, mask, video)["ccc_valence"]
    low, high = score.interval()
    for shift in np.linspace(low - 0.1, high + 0.1, 41):
        moved = BootstrapScore(
            score.score - shift, score.draws - shift, score.influence, score.leave_one_out - shift
        )
        contains = low < shift < high
        assert (moved.p_value() >= 0.05) == contains or min(
            abs(shift - low), abs(shift - high)
        ) < 0.01


def test_two_videos_show_no_difference() -> None:
    outputs, *known = rows(videos=2)
    one, other = (bootstrap(each, *known)["p_labelled"] for each in (outputs, outputs[::-1]))
    assert (one - other).score != 0
    assert (one - other).p_value() == 1


@pytest.mark.parametrize("absent", ["label", "prediction"])
def test_a_task_without_labels_or_predictions_has_no_score(absent: str) -> None:
    outputs, labels, mask, video = rows()
    units = TASKS["action_units"]
    if absent == "label":
        mask[:, units.labels] = False
    else:
        outputs[:, units.outputs] = np.nan
    by_name = bootstrap(outputs, labels, mask, video)
    assert set(by_name) == {"p_labelled", "ccc_valence", "ccc_arousal", "f1_expression"}
    assert by_name["p_labelled"].score == pytest.approx(
        metrics.scores(outputs, labels, mask)["p_labelled"]
    )


def test_the_interval_of_two_videos_is_all_possible_scores() -> None:
    few = bootstrap(*rows(videos=2))
    assert few["p_labelled"].interval() == (-MAX_DIFFERENCE, MAX_DIFFERENCE)
    assert intervals(few)["p_labelled"] == (-1, 3)
    assert intervals(few)["ccc_valence"] == (-1, 1)
    assert intervals(few)["f1_expression"] == (0, 1)
    three = intervals(bootstrap(*rows(videos=3)))
    assert three["p_labelled"] != (-1, 3)
