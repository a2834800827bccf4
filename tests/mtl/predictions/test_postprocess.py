"""Post-processing: smoothing within a video by frame number, expression bias, unit thresholds."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from mtl.evaluation.metrics import decisions, scores, task_score, task_sums
from mtl.predictions.postprocess import (
    FILTERS,
    WIDTHS_FRAMES,
    Kind,
    Postprocessing,
    Smoothing,
    apply_bias,
    apply_thresholds,
    choose,
    choose_bias,
    choose_smoothing,
    choose_thresholds,
    smooth,
)
from mtl.tasks import EXPRESSION, TASKS, UNITS, VALENCE

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def rows(frames: int = 300, videos: int = 5, seed: int = 0) -> Rows:
    """Return values, videos and irregular frame numbers in random order."""
    random = np.random.default_rng(seed)
    video = random.integers(0, videos, frames).astype(np.int32)
    frame = (1 + random.choice(3 * frames, frames, replace=False)).astype(np.int32)
    return random.uniform(-1, 1, (frames, 2)).astype(np.float32), video, frame


def plain(
    values: np.ndarray, video: np.ndarray, frame: np.ndarray, width: int, kind: Kind = "box"
) -> np.ndarray:
    distance = abs(frame[:, None] - frame)
    if kind == "box":
        weight = (distance <= width).astype(float)
    else:
        weight = np.exp(-0.5 * (distance / width) ** 2) * (distance <= 4 * width)
    weight *= video[:, None] == video
    return weight @ values.astype(np.float64) / weight.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("width", [1, 2, 7, 50, 899])
@pytest.mark.parametrize("seed", range(3))
def test_smooth_is_the_plain_mean_over_neighbours(kind: Kind, width: int, seed: int) -> None:
    values, video, frame = rows(seed=seed)
    smoothed = smooth(values, video, frame, width, kind)
    np.testing.assert_allclose(smoothed, plain(values, video, frame, width, kind), atol=1e-6)
    assert smoothed.dtype == values.dtype


@pytest.mark.parametrize("deviation", [1, 5, 20])
def test_smooth_on_regular_frames_is_scipys_gaussian_filter(deviation: int) -> None:
    values = np.random.default_rng(0).normal(size=(400, 1))
    video, frame = np.zeros(400, int), np.arange(1, 401)
    inside = slice(4 * deviation, 400 - 4 * deviation)
    expected = gaussian_filter1d(values[:, 0], deviation)
    smoothed = smooth(values, video, frame, deviation, "gaussian")[:, 0]
    np.testing.assert_allclose(smoothed[inside], expected[inside], atol=1e-12)


def test_smooth_measures_distance_in_frame_numbers() -> None:
    values, frame = np.array([[0.0], [1.0], [2.0], [9.0]]), np.array([1, 8, 17, 18])
    smoothed = smooth(values, np.zeros(4, int), frame, 7)
    np.testing.assert_allclose(smoothed[:, 0], [0.5, 0.5, 5.5, 5.5])


def test_width_zero_is_the_identity() -> None:
    values, video, frame = rows()
    np.testing.assert_array_equal(smooth(values, video, frame, 0), values)


def test_order_of_rows_does_not_matter() -> None:
    values, video, frame = rows()
    order = np.random.default_rng(1).permutation(len(values))
    shuffled = smooth(values[order], video[order], frame[order], 9)
    np.testing.assert_array_equal(shuffled, smooth(values, video, frame, 9)[order])


@pytest.mark.parametrize("radius", [1, 40, 10_000])
def test_a_video_does_not_affect_others(radius: int) -> None:
    values, video, frame = rows()
    changed = np.where(video[:, None] == 2, 100.0, values)
    others = video != 2
    np.testing.assert_allclose(
        smooth(changed, video, frame, radius)[others],
        smooth(values.astype(float), video, frame, radius)[others],
        atol=1e-9,
    )


def test_a_task_not_predicted_stays_nan_and_affects_no_other() -> None:
    values, video, frame = rows()
    with_nan = np.column_stack([values, np.full(len(values), np.nan, np.float32)])
    smoothed = smooth(with_nan, video, frame, 5)
    np.testing.assert_array_equal(smoothed[:, :2], smooth(values, video, frame, 5))
    assert np.isnan(smoothed[:, 2]).all()


def test_no_rows() -> None:
    empty = np.zeros(0, np.int32)
    assert smooth(np.zeros((0, 3)), empty, empty, 5).shape == (0, 3)


def noisy_path() -> tuple[np.ndarray, ...]:
    """Return a slowly varying valence with noisy outputs, every third frame of three videos."""
    random = np.random.default_rng(0)
    video, frame = np.repeat([0, 1, 2], 400), np.tile(np.arange(1, 1200, 3), 3)
    labels = np.sin(frame / 150 + video)[:, None]
    outputs = labels + random.normal(scale=0.7, size=labels.shape)
    return outputs, labels, np.ones(labels.shape, bool), video, frame


def test_the_chosen_smoothing_scores_best() -> None:
    outputs, labels, mask, video, frame = noisy_path()
    found = {
        Smoothing(kind, width): task_score(
            VALENCE, task_sums(VALENCE, smooth(outputs, video, frame, width, kind), labels, mask)
        )
        for kind, widths in WIDTHS_FRAMES.items()
        for width in widths
    }
    chosen = choose_smoothing(VALENCE, outputs, labels, mask, video, frame)
    assert chosen == max(found, key=found.__getitem__)
    assert chosen.width_frames > 0


def test_no_smoothing_is_chosen_if_it_lowers_the_score() -> None:
    _, labels, mask, video, frame = noisy_path()
    fast = np.sign(np.sin(labels * 50))
    assert choose_smoothing(VALENCE, fast, fast, mask, video, frame) == Smoothing()


def test_no_smoothing_is_chosen_if_scores_are_equal() -> None:
    outputs, labels, mask, video, _ = (each[::10] for each in noisy_path())
    apart = 1000 * np.arange(len(outputs))  # further than the reach of any filter
    assert choose_smoothing(VALENCE, outputs, labels, mask, video, apart) == Smoothing()


def test_unlabelled_frames_are_smoothed_over_and_their_labels_ignored() -> None:
    outputs, labels, mask, video, frame = noisy_path()
    mask[::2] = False
    expected = choose_smoothing(VALENCE, outputs, labels, mask, video, frame)
    labels[~mask] = -5
    assert choose_smoothing(VALENCE, outputs, labels, mask, video, frame) == expected
    assert expected.width_frames > 0


def test_expression_is_smoothed_as_probabilities() -> None:
    random = np.random.default_rng(0)
    frame, video = np.arange(1, 801), np.zeros(800, int)
    labels = (frame // 100 % 8)[:, None].astype(float)
    outputs = (labels == np.arange(8)) + random.random((800, 8)) * 2
    mask = np.ones(labels.shape, bool)
    found = choose_smoothing(EXPRESSION, outputs, labels, mask, video, frame)
    assert found.width_frames > 0


PRIOR = np.array([0.4, 0.02, 0.02, 0.02, 0.3, 0.04, 0.1, 0.1])


def test_a_bias_is_added_to_log_probabilities() -> None:
    random = np.random.default_rng(0)
    p = random.dirichlet(np.ones(8), 50)
    bias = random.normal(size=8)
    expected = np.exp(np.log(p) + bias)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(apply_bias(p, bias), expected, atol=1e-12)
    np.testing.assert_allclose(apply_bias(p, np.full(8, 3.0)), p, atol=1e-12)


def test_a_bias_raises_rare_classes_that_a_model_underestimates() -> None:
    random = np.random.default_rng(0)
    labels = random.choice(8, 4000, p=PRIOR)[:, None].astype(float)
    evidence = 1.2 * (labels == np.arange(8)) + random.gumbel(size=(4000, 8)) * 0.5
    p = np.exp(evidence + np.log(PRIOR))
    p /= p.sum(axis=1, keepdims=True)
    mask = np.ones(labels.shape, bool)
    bias = choose_bias(p, labels, mask, PRIOR)
    assert np.argsort(bias).tolist()[::-1][:3] != [0, 4, 6]
    assert bias[1] > 0 > bias[0]

    def score(outputs: np.ndarray) -> float:
        return float(task_score(EXPRESSION, task_sums(EXPRESSION, outputs, labels, mask)) or 0)

    assert score(apply_bias(p, np.array(bias))) > score(p)


def test_a_bias_that_does_not_help_is_zero() -> None:
    labels = np.random.default_rng(0).integers(0, 8, (400, 1)).astype(float)
    exact = 0.9 * (labels == np.arange(8)) + 0.0125
    assert choose_bias(exact, labels, np.ones(labels.shape, bool), PRIOR) == (0,) * 8


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_decisions_at_one_half_equal_those_at_the_thresholds(kind: type) -> None:
    random = np.random.default_rng(0)
    thresholds = random.uniform(0.02, 0.98, 12)
    p = random.random((2000, 12)).astype(kind)
    p[:12] = np.diag(thresholds).astype(kind) + (1 - np.eye(12)).astype(kind) * p[:12]
    p[12:14] = [[0.0] * 12, [1.0] * 12]
    moved = apply_thresholds(p, thresholds)
    assert moved.dtype == kind
    np.testing.assert_array_equal(decisions(UNITS, moved), p >= thresholds)
    assert (np.diff(moved[np.argsort(p[:, 3]), 3]) >= 0).all()


def test_thresholds_are_the_best_of_each_unit_and_one_half_without_labels() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((3000, 12)) < np.linspace(0.03, 0.6, 12)).astype(float)
    p = (0.15 * labels + 0.2 * random.random(labels.shape)).clip(0, 1)
    mask = np.ones(labels.shape, bool)
    mask[:, 11] = False
    found = choose_thresholds(p, labels, mask)
    assert all(0.1 < threshold < 0.4 for threshold in found[:11])
    assert found[11] == pytest.approx(0.5)


def all_tasks_case(frames: int = 400) -> dict[str, np.ndarray]:
    """Return outputs of all tasks that are noisy versions of the labels, in two videos."""
    random = np.random.default_rng(0)
    step = np.arange(frames) // 25
    labels = np.zeros((frames, 15), np.float32)
    labels[:, :2] = np.sin(step[:, None] / 3 + np.arange(2))
    labels[:, 2] = step % 8
    labels[:, 3:] = (step[:, None] + np.arange(12)) % 5 == 0
    outputs = np.empty((frames, 22), np.float32)
    outputs[:, :2] = labels[:, :2] + 0.5 * random.normal(size=(frames, 2))
    chances = np.exp(2 * (labels[:, 2:3] == np.arange(8)) + random.normal(size=(frames, 8)))
    outputs[:, 2:10] = chances / chances.sum(axis=1, keepdims=True)
    outputs[:, 10:] = (0.2 * labels[:, 3:] + 0.25 * random.random((frames, 12))).clip(0, 1)
    return {
        "outputs": outputs,
        "labels": labels,
        "mask": random.random((frames, 15)) < 0.7,
        "video": np.repeat([0, 1], frames // 2),
        "frame": np.tile(np.arange(1, frames // 2 + 1), 2),
        "prior": np.concatenate([[0, 0], PRIOR, np.full(12, 0.2)]).astype(np.float32),
    }


def test_all_steps_together_raise_the_score_of_every_task() -> None:
    case = all_tasks_case()
    found = choose(**case)
    processed = found(case["outputs"], case["video"], case["frame"])
    before = scores(case["outputs"], case["labels"], case["mask"])
    after = scores(processed, case["labels"], case["mask"])
    for name, task in TASKS.items():
        assert after[f"{task.score}_{name}"] > before[f"{task.score}_{name}"]
    assert found.smoothing.keys() == TASKS.keys()
    np.testing.assert_allclose(processed[:, EXPRESSION.outputs].sum(axis=1), 1, atol=1e-5)


def test_only_the_given_steps_are_chosen() -> None:
    case = all_tasks_case()
    assert choose(**case, steps=()) == Postprocessing()
    assert choose(**case, steps=["thresholds"]).smoothing == {}
    assert choose(**case, steps=["thresholds"]).thresholds
    assert choose(**case, steps=["smoothing"]).thresholds == ()


def test_a_task_without_outputs_or_labels_is_not_changed() -> None:
    case = all_tasks_case()
    case["outputs"][:, UNITS.outputs] = np.nan
    case["mask"][:, EXPRESSION.labels] = False
    found = choose(**case)
    assert found.smoothing.keys() == {"valence", "arousal"}
    assert found.bias == found.thresholds == ()
    processed = found(case["outputs"], case["video"], case["frame"])
    assert np.isnan(processed[:, UNITS.outputs]).all()
    np.testing.assert_array_equal(
        processed[:, EXPRESSION.outputs], case["outputs"][:, EXPRESSION.outputs]
    )
