"""Sequences of common frames, parts to predict, and statistics of the training labels."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np
import pytest

from mtl.dataset import Listing
from mtl.errors import InputError
from mtl.sequences.feature_table import FeatureTable
from mtl.sequences.join import (
    Rows,
    VideoSequence,
    join,
    nearest_index,
    part_of,
    trained_tasks,
    training_prior,
)
from mtl.tasks import TASKS
from tests.support.laws import labels

Frames = dict[str, list[int]]

LISTED: Frames = {
    "a": [9, 1, 4, 6, 12],
    "b": [3, 5],
    "c": [2, 8, 20],
    "d": [7, 30],
}
SPLITS = {"a": "train", "b": "train", "c": "validation", "d": "test"}


def listing(listed: Frames = LISTED, seed: int = 0) -> Listing:
    """Return a listing with frames in the given, unsorted order; half of the labels are missing."""
    rows = [(i, frame) for i, frames in enumerate(listed.values()) for frame in frames]
    video, frame = np.array(rows, np.int32).reshape(-1, 2).T
    values, mask = labels(len(rows), np.random.default_rng(seed))
    names = tuple(listed)
    splits = tuple(SPLITS.get(name, "train") for name in names)
    return Listing(names, splits, names, video, frame, values, mask)


def table(name: str, covered: Frames, width: int = 2, blocks: int = 2) -> FeatureTable:
    """Return a table with features (index of the video, frame number), in shared blocks."""
    rows: dict[str, tuple[int, int]] = {}
    parts: list[list[np.ndarray]] = [[np.full((3, width), -1.0, np.float16)] for _ in range(blocks)]
    for place, (video, frames) in enumerate(covered.items()):
        block = place % blocks
        rows[video] = (block, sum(map(len, parts[block])))
        values = np.zeros((len(frames), width), np.float16)
        values[:, 0], values[:, 1] = list(LISTED).index(video), sorted(frames)
        parts[block].append(values)
    return FeatureTable(
        name,
        [np.concatenate(part) for part in parts],
        rows,
        {video: np.array(sorted(frames), np.int32) for video, frames in covered.items()},
        np.zeros(width, np.float32),
        np.ones(width, np.float32),
    )


WIDE: Frames = {name: list(range(1, 31)) for name in LISTED}
HOLES: Frames = {"a": [1, 2, 6, 9, 13], "c": [2, 3, 8, 20], "d": [8]}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("frames", ["listed", "all"])
@pytest.mark.parametrize("covers", [[WIDE], [HOLES], [WIDE, HOLES], [LISTED, HOLES, WIDE]])
def test_sequences_hold_the_common_frames(
    covers: list[Frames], frames: str, stride: int, order: int
) -> None:
    tables = [table(str(i), covered) for i, covered in enumerate(covers)][::order]
    known = listing()
    sequences = join(known, tables, frames, stride)
    for place, (name, listed) in enumerate(LISTED.items()):
        sets = [set(covered.get(name, ())) for covered in covers]
        common = reduce(set.intersection, sets + ([set(listed)] if frames == "listed" else []))
        expected = sorted(common)[::stride]
        assert (name in sequences) == bool(expected)
        if expected:
            assert_sequence(sequences[name], place, expected, known)


def assert_sequence(
    sequence: VideoSequence, place: int, expected: list[int], known: Listing
) -> None:
    assert sequence.frames.tolist() == expected
    assert len(sequence) == len(expected)
    for start in range(len(expected)):
        frames = expected[start : start + 3]
        for rows in sequence.features:
            window = rows.window(start, len(frames))
            assert window[:, 0].tolist() == [place] * len(frames)
            assert window[:, 1].tolist() == frames
    for k, frame in enumerate(expected):
        (row,) = [*np.flatnonzero((known.video == place) & (known.frame == frame)), -1][:1]
        assert sequence.mask[k].tolist() == (known.mask[row].tolist() if row >= 0 else [False] * 15)
        if row >= 0:
            assert np.array_equal(sequence.labels[k], known.values[row])
        else:
            assert not sequence.labels[k].any()


def test_join_copies_no_features() -> None:
    tables = [table("one", WIDE), table("other", HOLES)]
    for sequence in join(listing(), tables).values():
        for rows, features in zip(sequence.features, tables, strict=True):
            assert any(rows.block is block for block in features.blocks)


def test_consecutive_rows_are_read_without_a_copy() -> None:
    sequence = join(listing(), [table("set", LISTED)])["a"]
    (rows,) = sequence.features
    assert isinstance(rows.index, slice)
    assert np.shares_memory(rows.window(1, 3), rows.block)


def test_scattered_rows() -> None:
    block = np.arange(10, dtype=np.uint8)[:, None]
    assert Rows(block, np.array([1, 4, 5, 9])).window(1, 2).tolist() == [[4], [5]]
    assert Rows(block, slice(3, 8)).window(2, 2).tolist() == [[5], [6]]


@pytest.mark.parametrize(
    "covers",
    [
        [{"a": [2, 3], "b": [4]}],
        [{"a": [1, 4]}, {"a": [6, 9]}],
        [{"a": [1, 4]}, {"b": [3, 5]}],
    ],
)
def test_sets_without_a_common_frame_are_refused(covers: list[Frames]) -> None:
    tables = [table(f"set{i}", covered) for i, covered in enumerate(covers)]
    with pytest.raises(InputError, match=r"feature sets set0.* have no listed frame in common"):
        join(listing(), tables)


def test_a_video_that_is_listed_without_frames_has_no_sequence() -> None:
    known = listing({**LISTED, "c": []})
    for frames in ("listed", "all"):
        assert set(join(known, [table("set", WIDE)], frames)) == {"a", "b", "d"}


# Parts


def brute_nearest(frames: Sequence[int], wanted: int) -> int:
    return min(range(len(frames)), key=lambda i: (abs(frames[i] - wanted), frames[i]))


@pytest.mark.parametrize("seed", range(20))
def test_nearest_index_equals_a_search(seed: int) -> None:
    random = np.random.default_rng(seed)
    frames = np.sort(random.permutation(40)[: random.integers(1, 12)]).astype(np.int32)
    wanted = np.arange(-3, 45, dtype=np.int32)
    expected = [brute_nearest(frames.tolist(), frame) for frame in wanted.tolist()]
    assert nearest_index(frames, wanted).tolist() == expected


def test_the_earlier_of_two_equally_near_frames_is_taken() -> None:
    assert nearest_index(np.array([2, 6, 10]), np.array([4, 8, 5, 7])).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "videos", [["a"], ["c", "a"], ["b", "d"], ["a", "b", "c", "d"], ["b"], ["d"], []]
)
def test_every_listed_frame_of_a_part_has_its_source(videos: list[str], stride: int) -> None:
    known = listing()
    sequences = join(known, [table("one", WIDE), table("other", HOLES)], "listed", stride)
    found = part_of(known, sequences, videos)
    names = [name for name in LISTED if name in videos]
    assert [s.video for s in found.sequences] == [name for name in names if name in sequences]
    expected_rows = [i for i, v in enumerate(known.video) if known.names[v] in videos]
    assert found.rows.tolist() == expected_rows
    assert np.array_equal(found.labels, known.values[expected_rows])
    assert np.array_equal(found.mask, known.mask[expected_rows])
    places = [(s.video, int(frame)) for s in found.sequences for frame in s.frames]
    for row, source in zip(expected_rows, found.source.tolist(), strict=True):
        name, frame = known.names[known.video[row]], int(known.frame[row])
        if name not in sequences:
            assert source == -1
            continue
        frames = sequences[name].frames.tolist()
        nearest = frames[brute_nearest(frames, frame)]
        assert places[source] == (name, nearest)


# Training labels


def known_only(task: str, splits: Sequence[str]) -> Listing:
    """Return a listing with the labels of one task only, in the videos of these splits only."""
    whole = listing()
    mask = np.zeros_like(whole.mask)
    rows = np.isin(np.array(whole.splits)[whole.video], list(splits))
    mask[np.ix_(rows, np.arange(15)[TASKS[task].labels])] = True
    return replace(whole, mask=mask)


@pytest.mark.parametrize("task", TASKS)
def test_tasks_with_a_training_label_are_trained(task: str) -> None:
    assert trained_tasks(TASKS, known_only(task, ["train"])) == (task,)
    assert trained_tasks(TASKS, known_only(task, ["validation", "test"])) == ()
    others = [name for name in TASKS if name != task]
    assert trained_tasks(others, known_only(task, ["train"])) == ()


def test_trained_tasks_keep_the_order_of_the_config() -> None:
    assert trained_tasks(["expression", "valence"], listing()) == ("expression", "valence")


def test_one_labelled_unit_makes_action_units_trained() -> None:
    whole = known_only("action_units", ["train"])
    whole.mask[:, 4:] = False
    assert trained_tasks(TASKS, whole) == ("action_units",)


def test_the_prior_is_the_mean_of_the_training_labels() -> None:
    known = listing(seed=3)
    train = [i for i, v in enumerate(known.video) if known.splits[v] == "train"]
    prior = training_prior(known)
    assert prior.dtype == np.float32

    def labelled(column: int) -> list[float]:
        return [float(known.values[i, column]) for i in train if known.mask[i, column]]

    expected = [np.mean(labelled(0)), np.mean(labelled(1))]
    expected += [labelled(2).count(k) / len(labelled(2)) for k in range(8)]
    expected += [np.mean(labelled(column) or [0]) for column in range(3, 15)]
    np.testing.assert_allclose(prior, expected, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_the_prior_of_an_unlabelled_task_is_nan(task: str) -> None:
    nan = np.isnan(training_prior(known_only(task, ["train"])))
    expected = np.ones(22, bool)
    expected[TASKS[task].outputs] = False
    assert np.array_equal(nan, expected)
    assert np.isnan(training_prior(known_only(task, ["validation"]))).all()
