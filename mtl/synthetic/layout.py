"""Layout of a synthetic dataset: videos, listed frames, and which labels are missing.

Listed frames are the frames that the annotation files name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32

from mtl.dataset import SPLITS
from mtl.synthetic.parameters import Demo

# The challenge publishes these counts of 142,333 training frames: valence/arousal 103,917,
# expression 90,645, action units 103,316, all three 52,154. The shares of frames with one or two
# labelled tasks are not published; the shares here agree with the published counts.
TRAIN_PATTERNS = {
    ("affect", "expression", "action_units"): 0.3664,
    ("affect", "expression"): 0.1000,
    ("affect", "action_units"): 0.1600,
    ("expression", "action_units"): 0.1000,
    ("affect",): 0.1037,
    ("expression",): 0.0704,
    ("action_units",): 0.0995,
}
"""Share of the training frames for each set of labelled tasks."""

# In the challenge all 26,876 validation frames have valence/arousal and action units; 15,440 have
# an expression.
VALIDATION_PATTERNS = {
    ("affect", "expression", "action_units"): 0.5745,
    ("affect", "action_units"): 0.4255,
}
"""Share of the validation frames for each set of labelled tasks."""

TEST_PATTERNS: dict[tuple[str, ...], float] = {(): 1.0}
"""Share of the test frames for each set of labelled tasks: no test frame is labelled."""

PATTERNS = dict(zip(SPLITS, (TRAIN_PATTERNS, VALIDATION_PATTERNS, TEST_PATTERNS), strict=True))
"""Share of a split's frames for each set of labelled tasks, by the name of the split."""

COLUMNS = {"affect": slice(0, 2), "expression": slice(2, 3), "action_units": slice(3, 15)}
"""Label columns of each task."""


@dataclass(frozen=True)
class Layout:
    """Videos of a synthetic dataset and the numbers of their listed (annotated) frames.

    Attributes:
        names: Name of each video.
        splits: Split of each video: "train", "validation" or "test".
        subjects: Person in each video.
        frames: Increasing numbers of the listed frames of each video.
    """

    names: tuple[str, ...]
    splits: tuple[str, ...]
    subjects: tuple[str, ...]
    frames: tuple[Int32[np.ndarray, " _"], ...]

    @property
    def video(self) -> Int32[np.ndarray, " N"]:
        """Index of the video of each listed (annotated) frame, with videos one after the other."""
        return np.repeat(np.arange(len(self.names)), [len(f) for f in self.frames]).astype(np.int32)

    def rows(self, split: str) -> Bool[np.ndarray, " N"]:
        """Return a boolean mask over the listed (annotated) frames, True for frames of a split."""
        return np.asarray(np.array([of_video == split for of_video in self.splits])[self.video])


def draw_layout(rng: np.random.Generator, demo: Demo) -> Layout:
    """Draw videos of lognormal length for the three splits; every fourth person has two videos."""
    counts = split_sizes(demo.videos, demo.split_shares)
    splits = tuple(np.repeat(SPLITS, counts).tolist())
    lengths = rng.lognormal(0, demo.length_spread, demo.videos)
    if demo.split_frames is None:
        lengths = np.maximum(2, lengths / lengths.mean() * demo.mean_frames).astype(int)
    else:
        of_split = np.split(lengths, np.cumsum(counts)[:-1])
        pairs = zip(of_split, demo.split_frames, strict=True)
        lengths = np.concatenate([_with_sum(part, frames) for part, frames in pairs])
    return Layout(
        names=tuple(f"video{n:03d}" for n in range(1, demo.videos + 1)),
        splits=splits,
        subjects=tuple(
            f"{split}_subject{n:03d}" for split, n in zip(splits, _subjects(counts), strict=True)
        ),
        frames=tuple(
            _frame_numbers(rng, length, demo.mean_gap_frames) for length in lengths.tolist()
        ),
    )


def split_sizes(videos: int, shares: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the numbers of training, validation and test videos, the last two at least 2.

    Args:
        videos: Number of all videos.
        shares: Fractions of the videos for training, validation and test.
    """
    validation, test = (max(2, round(videos * share)) for share in shares[1:])
    return videos - validation - test, validation, test


def _with_sum(weights: np.ndarray, total: int) -> np.ndarray:
    """Return whole numbers in proportion to positive weights that add up to a total exactly."""
    ends = np.rint(np.cumsum(weights) / weights.sum() * total).astype(int)
    return np.diff(ends, prepend=0)


def _subjects(counts: tuple[int, ...]) -> list[int]:
    """Return the number of the person in each video.

    In each split the numbers start anew: 0 0 1 2 3 4 4 5 6 7 8 8, so every fourth person has two
    videos.

    Args:
        counts: Number of videos in each split.
    """
    return [n - n // 5 - (n % 5 > 0) for count in counts for n in range(count)]


def _frame_numbers(rng: np.random.Generator, length: int, mean_gap_frames: float) -> np.ndarray:
    """Draw increasing frame numbers from 1 on; at random, 2 % of the gaps are ten times as long."""
    gaps = 1 + rng.poisson(mean_gap_frames - 1, length)
    gaps = np.where(rng.random(length) < 0.02, 10 * gaps, gaps)
    return np.asarray(1 + np.cumsum(gaps) - gaps[0], dtype=np.int32)


def label_mask(
    rng: np.random.Generator, layout: Layout, run_frames: float
) -> Bool[np.ndarray, "N 15"]:
    """Draw which of the 15 labels of each listed frame are known.

    Labels are missing in runs: consecutive frames of a run have the same labelled tasks. The shares
    of frames with each set of labelled tasks are those of the challenge.

    Args:
        rng: Source of the random draws.
        layout: Videos and the numbers of their listed (annotated) frames.
        run_frames: Mean length of a run, in listed frames.

    Returns:
        True where a label is known.
    """
    mask = np.zeros((len(layout.video), 15), dtype=bool)
    runs = _runs(rng, layout.video, run_frames)
    for split, patterns in PATTERNS.items():
        of_split = [run for run in runs if layout.splits[layout.video[run[0]]] == split]
        for run, pattern in zip(of_split, _assign_patterns(rng, of_split, patterns), strict=True):
            for task in pattern:
                mask[run, COLUMNS[task]] = True
    return mask


def _runs(rng: np.random.Generator, video: np.ndarray, run_frames: float) -> list[np.ndarray]:
    """Cut all frames into runs (consecutive frames with the same labelled tasks) at random.

    Args:
        rng: Source of the random draws.
        video: Index of the video of each frame; a run never extends over two videos.
        run_frames: Mean length of a run, in frames.

    Returns:
        Row numbers of the frames of each run.
    """
    cut = (np.diff(video) > 0) | (rng.random(len(video) - 1) < 1 / run_frames)
    return np.split(np.arange(len(video)), np.flatnonzero(cut) + 1)


def _assign_patterns(
    rng: np.random.Generator,
    runs: list[np.ndarray],
    patterns: Mapping[tuple[str, ...], float],
) -> list[tuple[str, ...]]:
    """Choose the labelled tasks of each run of consecutive frames.

    Runs are visited in random order. Each run gets the set of tasks that at this point has
    the largest difference between its wanted and its actual number of frames.

    Args:
        rng: Source of the random draws.
        runs: Row numbers of the frames of each run.
        patterns: Wanted share of the frames for each set of labelled tasks.
    """
    choices, shares = list(patterns), np.array(list(patterns.values()))
    frames, assigned = np.zeros(len(choices)), [choices[0]] * len(runs)
    for run in rng.permutation(len(runs)):
        choice = int(np.argmax(shares * (frames.sum() + len(runs[run])) - frames))
        frames[choice] += len(runs[run])
        assigned[run] = choices[choice]
    return assigned
