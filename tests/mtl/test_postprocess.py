"""Smoothing equals the plain mean over neighbours by frame number, within a video."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter1d

from mtl.metrics import task_score, task_sums
from mtl.postprocess import RADII_FRAMES, choose_radius, smooth
from mtl.tasks import EXPRESSION, VALENCE

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]


def rows(frames: int = 300, videos: int = 5, seed: int = 0) -> Rows:
    """Values, video and irregular frame numbers, shuffled."""
    random = np.random.default_rng(seed)
    video = random.integers(0, videos, frames).astype(np.int32)
    frame = (1 + random.choice(3 * frames, frames, replace=False)).astype(np.int32)
    return random.uniform(-1, 1, (frames, 2)).astype(np.float32), video, frame


def plain(values: np.ndarray, video: np.ndarray, frame: np.ndarray, radius: int) -> np.ndarray:
    near = abs(frame[:, None] - frame) <= radius
    near &= video[:, None] == video
    return near @ values.astype(np.float64) / near.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("radius", [1, 2, 7, 50, 899, 5000])
@pytest.mark.parametrize("seed", range(3))
def test_smooth_is_the_plain_mean_over_neighbours(radius: int, seed: int) -> None:
    values, video, frame = rows(seed=seed)
    smoothed = smooth(values, video, frame, radius)
    np.testing.assert_allclose(smoothed, plain(values, video, frame, radius), atol=1e-6)
    assert smoothed.dtype == values.dtype


@pytest.mark.parametrize("radius", [1, 5, 20])
def test_smooth_on_regular_frames_is_scipys_uniform_filter(radius: int) -> None:
    values = np.random.default_rng(0).normal(size=(200, 1))
    video, frame = np.zeros(200, int), np.arange(1, 201)
    inside = slice(radius, 200 - radius)
    expected = uniform_filter1d(values[:, 0], 2 * radius + 1)
    smoothed = smooth(values, video, frame, radius)[:, 0]
    np.testing.assert_allclose(smoothed[inside], expected[inside], atol=1e-12)


def test_smooth_goes_by_frame_number_not_by_row() -> None:
    values, frame = np.array([[0.0], [1.0], [2.0], [9.0]]), np.array([1, 8, 17, 18])
    smoothed = smooth(values, np.zeros(4, int), frame, 7)
    np.testing.assert_allclose(smoothed[:, 0], [0.5, 0.5, 5.5, 5.5])


def test_radius_zero_is_the_identity() -> None:
    values, video, frame = rows()
    np.testing.assert_array_equal(smooth(values, video, frame, 0), values)


def test_order_of_rows_does_not_matter() -> None:
    values, video, frame = rows()
    order = np.random.default_rng(1).permutation(len(values))
    shuffled = smooth(values[order], video[order], frame[order], 9)
    np.testing.assert_array_equal(shuffled, smooth(values, video, frame, 9)[order])


@pytest.mark.parametrize("radius", [1, 40, 10_000])
def test_nothing_leaks_between_videos(radius: int) -> None:
    values, video, frame = rows()
    changed = np.where(video[:, None] == 2, 100.0, values)
    others = video != 2
    np.testing.assert_allclose(
        smooth(changed, video, frame, radius)[others],
        smooth(values.astype(float), video, frame, radius)[others],
        atol=1e-9,
    )


def test_a_task_not_predicted_stays_nan_and_harms_no_other() -> None:
    values, video, frame = rows()
    with_nan = np.column_stack([values, np.full(len(values), np.nan, np.float32)])
    smoothed = smooth(with_nan, video, frame, 5)
    np.testing.assert_array_equal(smoothed[:, :2], smooth(values, video, frame, 5))
    assert np.isnan(smoothed[:, 2]).all()


def test_no_rows() -> None:
    empty = np.zeros(0, np.int32)
    assert smooth(np.zeros((0, 3)), empty, empty, 5).shape == (0, 3)


def noisy_path() -> tuple[np.ndarray, ...]:
    """A slow valence seen through noise, every third frame, in three videos."""
    random = np.random.default_rng(0)
    video, frame = np.repeat([0, 1, 2], 400), np.tile(np.arange(1, 1200, 3), 3)
    labels = np.sin(frame / 150 + video)[:, None]
    outputs = labels + random.normal(scale=0.7, size=labels.shape)
    return outputs, labels, np.ones(labels.shape, bool), video, frame


def test_choose_radius_is_the_best_on_these_rows() -> None:
    outputs, labels, mask, video, frame = noisy_path()
    scores = {
        radius: task_score(
            VALENCE, task_sums(VALENCE, smooth(outputs, video, frame, radius), labels, mask)
        )
        for radius in RADII_FRAMES
    }
    chosen = choose_radius(VALENCE, outputs, labels, mask, video, frame)
    assert chosen == max(scores, key=scores.__getitem__)
    assert 0 < chosen < max(RADII_FRAMES)


def test_choose_radius_leaves_what_smoothing_harms() -> None:
    _, labels, mask, video, frame = noisy_path()
    fast = np.sign(np.sin(labels * 50))
    assert choose_radius(VALENCE, fast, fast, mask, video, frame) == 0


@pytest.mark.parametrize("radii", [(20, 5, 10), (10, 20, 5)])
def test_equal_scores_go_to_the_smaller_radius(radii: tuple[int, ...]) -> None:
    outputs, labels, mask, video, _ = noisy_path()
    apart = 1000 * np.arange(len(outputs))
    assert choose_radius(VALENCE, outputs, labels, mask, video, apart, radii) == 5


def test_without_labels_the_smallest_radius_is_kept() -> None:
    outputs, labels, mask, video, frame = noisy_path()
    assert choose_radius(VALENCE, outputs, labels, ~mask, video, frame) == 0


def test_unlabelled_neighbours_help_but_their_labels_are_not_read() -> None:
    outputs, labels, mask, video, frame = noisy_path()
    mask[::2] = False
    expected = choose_radius(VALENCE, outputs, labels, mask, video, frame)
    labels[~mask] = -5
    assert choose_radius(VALENCE, outputs, labels, mask, video, frame) == expected > 0


def test_expression_is_smoothed_as_probabilities() -> None:
    random = np.random.default_rng(0)
    frame, video = np.arange(1, 801), np.zeros(800, int)
    labels = (frame // 100 % 8)[:, None].astype(float)
    outputs = (labels == np.arange(8)) + random.random((800, 8)) * 2
    mask = np.ones(labels.shape, bool)
    assert choose_radius(EXPRESSION, outputs, labels, mask, video, frame) > 0
