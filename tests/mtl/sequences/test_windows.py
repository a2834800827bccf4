"""Schedules of windows, batches of windows, and stitching of outputs."""

from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch

from mtl.sequences.windows import (
    Batches,
    Schedule,
    Stitch,
    WindowBatch,
    carried_schedule,
    free_schedule,
)
from mtl.tasks import LABEL_COLUMNS, OUTPUT_COLUMNS
from tests.support.laws import WIDTH, data, videos

MAKERS = (carried_schedule, free_schedule)
LENGTHS = (
    (9, 4, 7, 3, 6),
    (1,),
    (1, 1, 1, 1),
    (40, 2),
    (8, 8, 8),
    tuple(range(1, 14)),
)
SIZES = ((1, 2), (3, 4), (4, 5), (16, 7), (2, 64))

every_maker = pytest.mark.parametrize("make", MAKERS)
every_length = pytest.mark.parametrize("lengths", LENGTHS, ids=str)
Make = Callable[..., Schedule]


def frames_of(schedule: Schedule) -> Counter[tuple[int, int]]:
    """Count how often each (sequence, frame) is scheduled."""
    windows = schedule.reshape(-1, 3).tolist()
    return Counter((i, at + k) for i, at, length in windows for k in range(length))


def all_frames(lengths: tuple[int, ...]) -> set[tuple[int, int]]:
    return {(i, k) for i, length in enumerate(lengths) for k in range(length)}


@every_maker
@every_length
def test_every_training_frame_is_scheduled_once_an_epoch(
    make: Make, lengths: tuple[int, ...]
) -> None:
    for epoch, (lanes, window) in product(range(3), SIZES):
        schedule = make(lengths, lanes, window, np.random.default_rng([0, epoch]))
        assert frames_of(schedule) == Counter(all_frames(lengths))
        assert schedule[..., 2].sum(axis=2).max() <= window
        frames = schedule[..., 2].sum(axis=2)
        busy, longest = (frames > 0).sum(axis=1), frames.max(axis=1)
        assert (busy * longest <= lanes * window).all()
        assert schedule.shape[1] <= (lanes if make is carried_schedule else lanes * window)


def test_windows_of_similar_length_are_batched_together() -> None:
    """Batches of mixed lengths would be padded to the longest window: 12 % of this data's epoch."""
    lengths = np.random.default_rng(0).lognormal(6, 0.8, 100).astype(int).tolist()
    schedule = free_schedule(lengths, 8, 64, np.random.default_rng(0))[..., 2].sum(axis=2)
    padded = (schedule > 0).sum(axis=1) * schedule.max(axis=1)
    assert schedule.sum() / padded.sum() > 0.98
    assert padded.mean() > 0.95 * 8 * 64


@every_maker
@every_length
def test_every_frame_is_predicted(make: Make, lengths: tuple[int, ...]) -> None:
    for lanes, window in SIZES:
        schedule = make(lengths, lanes, window, None)
        assert set(frames_of(schedule)) == all_frames(lengths)
        assert schedule[..., 2].sum(axis=2).max() <= window


@every_maker
@every_length
def test_no_step_is_empty_and_idle_lanes_come_last(make: Make, lengths: tuple[int, ...]) -> None:
    for random in (None, np.random.default_rng(0)):
        busy = make(lengths, 3, 4, random)[..., 2] > 0
        assert (np.diff(busy.astype(int), axis=2) <= 0).all()
        busy = busy.any(axis=2)
        assert busy.any(axis=1).all()
        assert (np.diff(busy.astype(int), axis=1) <= 0).all()
        if make is carried_schedule:  # otherwise the states of lanes would be mixed up
            assert (np.diff(busy.astype(int), axis=0) <= 0).all()


@every_length
@pytest.mark.parametrize("seed", [None, 0, 1])
def test_a_carried_lane_holds_whole_videos_in_order(
    lengths: tuple[int, ...], seed: int | None
) -> None:
    for lanes, window in SIZES:
        random = None if seed is None else np.random.default_rng(seed)
        schedule = carried_schedule(lengths, lanes, window, random)
        for lane in schedule.swapaxes(0, 1):
            frames = lane[..., 2].sum(axis=1)
            frames = frames[frames > 0]
            assert (frames[:-1] == window).all()
            pieces = lane.reshape(-1, 3)
            assert_walks(pieces[pieces[:, 2] > 0].tolist(), lengths)


def assert_walks(pieces: list[list[int]], lengths: tuple[int, ...]) -> None:
    """Assert that each piece continues the previous one, or starts a video after one has ended."""
    before, at, end = -1, -1, -1
    for sequence, start, length in pieces:
        if start == 0:
            assert at == end
        else:
            assert (sequence, start) == (before, at)
        before, at, end = sequence, start + length, lengths[sequence]
    assert at == end


@every_length
def test_carried_lanes_have_similar_lengths(lengths: tuple[int, ...]) -> None:
    """The longest and shortest lane differ by at most the longest video."""
    schedule = carried_schedule(lengths, 3, 2, np.random.default_rng(0))
    frames = schedule[..., 2].sum(axis=(0, 2))
    assert frames.max() - frames.min() <= max(lengths)


@every_length
def test_prediction_windows_depend_on_the_video_alone(lengths: tuple[int, ...]) -> None:
    def windows(schedule: Schedule, sequence: int) -> list[tuple[int, int]]:
        found = [(a, n) for i, a, n in schedule.reshape(-1, 3).tolist() if i == sequence and n]
        return sorted(found)

    for lanes, window in SIZES:
        together = free_schedule(lengths, lanes, window, None)
        for sequence, length in enumerate(lengths):
            alone = free_schedule((length,), 1, window, None)
            assert windows(together, sequence) == windows(alone, 0)


@every_length
def test_prediction_windows_overlap_by_half(lengths: tuple[int, ...]) -> None:
    window = 6
    schedule = free_schedule(lengths, 3, window, None)
    seen = frames_of(schedule)
    for sequence, length in enumerate(lengths):
        inner = range(window // 2, length - window // 2) if length > window else ()
        assert all(seen[sequence, frame] >= 2 for frame in inner)
        assert all(seen[sequence, frame] <= 3 for frame in range(length))


@every_maker
def test_a_schedule_depends_on_its_arguments_alone(make: Make) -> None:
    def draw(*seed: int, lanes: int = 3, window: int = 4) -> str:
        lengths = (9, 4, 7, 3, 6, 12, 12)
        return str(make(lengths, lanes, window, np.random.default_rng(seed)).tolist())

    before = draw(0, 1)
    np.random.default_rng().random()
    torch.manual_seed(5)
    assert draw(0, 1) == before
    others = {draw(0, 2), draw(1, 1), draw(0, 1, lanes=2), draw(0, 1, window=5)}
    assert before not in others
    assert len(others) == 4


@every_length
def test_training_windows_start_at_a_random_phase(lengths: tuple[int, ...]) -> None:
    """A fixed phase would put each frame at the same position of its window in every epoch."""
    starts = {
        (i, at)
        for epoch in range(60)
        for i, at, n in free_schedule(lengths, 3, 4, np.random.default_rng(epoch))
        .reshape(-1, 3)
        .tolist()
        if n
    }
    assert starts == all_frames(lengths)


def batches(lengths: tuple[int, ...]) -> Batches:
    zoo = data(lengths)
    return Batches(zoo.train, zoo.mean, zoo.std, torch.device("cpu"))


def by_hand(lengths: tuple[int, ...], sequence: int, frame: int) -> np.ndarray:
    """Return the features of one frame, joined and z-scored in double precision."""
    zoo = data(lengths)
    half, scattered = zoo.train[sequence].features
    assert isinstance(half.index, slice)
    assert isinstance(scattered.index, np.ndarray)
    values = [half.block[half.index.start + frame], scattered.block[scattered.index[frame]]]
    return (np.concatenate(values).astype(float) - zoo.mean) / zoo.std


def frames_in(pieces: list[list[int]]) -> list[tuple[int, int]]:
    return [(i, k) for i, start, length in pieces for k in range(start, start + length)]


@every_maker
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_hold_the_scheduled_frames(make: Make, seed: int | None) -> None:
    lengths = (9, 4, 7, 3, 6)
    cut, sequences = batches(lengths), data(lengths).train
    random = None if seed is None else np.random.default_rng(seed)
    schedule = make(lengths, 3, 4, random)
    made = list(cut(schedule))
    assert len(made) == len(schedule)
    for batch, step in zip(made, schedule.tolist(), strict=True):
        assert batch.x.shape == (*batch.valid.shape, WIDTH)
        lanes = [frames for frames in map(frames_in, step) if frames]
        assert len(batch.valid) == len(lanes)
        for lane, frames in enumerate(lanes):
            padding = batch.valid.shape[1] - len(frames)
            assert batch.valid[lane].tolist() == [True] * len(frames) + [False] * padding
            assert (
                batch.sequence_starts[lane].tolist()
                == [k == 0 for _, k in frames] + [False] * padding
            )
            for at, (i, k) in enumerate(frames):
                np.testing.assert_allclose(batch.x[lane, at], by_hand(lengths, i, k), atol=1e-5)
                assert np.array_equal(batch.labels[lane, at], sequences[i].labels[k])
                assert np.array_equal(batch.mask[lane, at], sequences[i].mask[k])
        assert_padding_is_empty(batch)


def test_a_step_of_idle_lanes_is_one_padded_frame() -> None:
    batch = batches((9, 4)).cut(np.zeros((2, 1, 3), int))
    assert batch.x.shape == (1, 1, WIDTH)
    assert not batch.valid.any()
    assert not batch.sequence_starts.any()
    assert_padding_is_empty(batch)


def test_batches_in_double_precision() -> None:
    zoo = data((9, 4))
    cut = Batches(zoo.train, zoo.mean, zoo.std, torch.device("cpu"), torch.float64).cut
    batch = cut(np.array([[[1, 1, 3]]]))
    assert batch.x.dtype == batch.labels.dtype == torch.float64
    for k in range(3):
        expected = by_hand((9, 4), 1, 1 + k)
        # The mean and standard deviation are stored in single precision.
        np.testing.assert_allclose(batch.x[0, k], expected, rtol=1e-6)


def assert_padding_is_empty(batch: WindowBatch) -> None:
    assert not batch.x[~batch.valid].any()
    assert not batch.mask[~batch.valid].any()


def test_cutting_does_not_change_the_stored_features() -> None:
    lengths = (9, 4)
    cut = batches(lengths)
    before = [[rows.block.copy() for rows in video.features] for video in cut.sequences]
    for block in (rows.block for video in cut.sequences for rows in video.features):
        block.flags.writeable = False
    list(cut(carried_schedule(lengths, 2, 4, None)))
    after = [[rows.block for rows in video.features] for video in cut.sequences]
    for one, other in zip(before, after, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@every_maker
@every_length
@pytest.mark.parametrize("seed", [None, 0])
def test_cut_then_stitch_is_the_identity(
    make: Make, lengths: tuple[int, ...], seed: int | None
) -> None:
    width = len(OUTPUT_COLUMNS)
    rows = np.random.default_rng(0).integers(-99, 99, (sum(lengths), width)).astype(np.float32)
    for lanes, window in SIZES:
        random = None if seed is None else np.random.default_rng(seed)
        schedule = make(lengths, lanes, window, random)
        assert np.array_equal(cut_and_stitched(rows, lengths, schedule), rows)


def cut_and_stitched(rows: np.ndarray, lengths: tuple[int, ...], schedule: Schedule) -> np.ndarray:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    stitch = Stitch(lengths)
    for step in schedule:
        longest = int(step[..., 2].sum(axis=1).max())
        outputs = np.full((len(step), longest, rows.shape[1]), np.nan, np.float32)
        for lane, pieces in enumerate(step.tolist()):
            for at, (i, k) in enumerate(frames_in(pieces)):
                outputs[lane, at] = rows[starts[i] + k]
        stitch.add(step, outputs)
    return stitch.rows()


def test_labels_survive_cut_and_stitch() -> None:
    lengths = (9, 4, 7)
    sequences = videos(lengths)
    stitch = Stitch(lengths)
    schedule = free_schedule(lengths, 2, 4, None)
    for step, batch in zip(schedule, batches(lengths)(schedule), strict=True):
        outputs = np.zeros((*batch.valid.shape, len(OUTPUT_COLUMNS)), np.float32)
        outputs[:, :, : len(LABEL_COLUMNS)] = batch.labels.numpy()
        stitch.add(step, outputs)
    found = stitch.rows()[:, : len(LABEL_COLUMNS)]
    expected = np.concatenate([video.labels for video in sequences])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_overlapping_windows_are_averaged() -> None:
    stitch = Stitch((3, 2))
    width = len(OUTPUT_COLUMNS)
    outputs = np.arange(1, 5, dtype=np.float32)[:, None, None] * np.ones((4, 2, width), np.float32)
    windows = np.array([[0, 0, 2], [0, 1, 2], [1, 0, 2], [0, 0, 0]])
    stitch.add(windows[:, None], outputs)
    expected = np.array([1, 1.5, 2, 3, 3], np.float32)
    assert np.array_equal(stitch.rows(), np.repeat(expected[:, None], width, 1))
