"""Layout of the planted dataset: videos, listed frames, and the pattern of missing labels."""

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
"""Share of the frames for each set of labelled tasks, by split."""

COLUMNS = {"affect": slice(0, 2), "expression": slice(2, 3), "action_units": slice(3, 15)}
"""Label columns of each task."""


@dataclass(frozen=True)
class Layout:
    """Videos in listing order: names, splits, subjects and listed frame numbers."""

    names: tuple[str, ...]
    splits: tuple[str, ...]
    subjects: tuple[str, ...]
    frames: tuple[Int32[np.ndarray, " _"], ...]

    @property
    def video(self) -> Int32[np.ndarray, " N"]:
        """Index of each listed frame's video."""
        return np.repeat(np.arange(len(self.names)), [len(f) for f in self.frames]).astype(np.int32)

    def rows(self, split: str) -> Bool[np.ndarray, " N"]:
        """True for the listed frames of the split."""
        return np.asarray(np.array([of_video == split for of_video in self.splits])[self.video])


def draw_layout(rng: np.random.Generator, demo: Demo) -> Layout:
    """Draw videos of lognormal length for three splits; every fourth subject has two videos."""
    counts = split_sizes(demo.videos, demo.split_shares)
    splits = tuple(np.repeat(SPLITS, counts).tolist())
    lengths = rng.lognormal(0, demo.length_spread, demo.videos)
    lengths = np.maximum(2, lengths / lengths.mean() * demo.mean_frames).astype(int)
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
    """Return the number of training, validation and test videos, the last two at least 2."""
    validation, test = (max(2, round(videos * share)) for share in shares[1:])
    return videos - validation - test, validation, test


def _subjects(counts: tuple[int, ...]) -> list[int]:
    """Return the subject number of each video: 0 0 1 2 3 4 4 5 6 7 8 8 ... in each split."""
    return [n - n // 5 - (n % 5 > 0) for count in counts for n in range(count)]


def _frame_numbers(rng: np.random.Generator, length: int, mean_gap_frames: float) -> np.ndarray:
    """Draw increasing frame numbers from 1 on; about one gap in fifty is ten times as long."""
    gaps = 1 + rng.poisson(mean_gap_frames - 1, length)
    gaps = np.where(rng.random(length) < 0.02, 10 * gaps, gaps)
    return np.asarray(1 + np.cumsum(gaps) - gaps[0], dtype=np.int32)


def label_mask(
    rng: np.random.Generator, layout: Layout, run_frames: float
) -> Bool[np.ndarray, "N 15"]:
    """Draw the mask of known labels; consecutive frames in a run have the same labelled tasks.

    Args:
        rng: Source of the random draws.
        layout: Videos and listed frames.
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
    """Cut the listed frames into runs, at the ends of videos and at random; return their rows."""
    cut = (np.diff(video) > 0) | (rng.random(len(video) - 1) < 1 / run_frames)
    return np.split(np.arange(len(video)), np.flatnonzero(cut) + 1)


def _assign_patterns(
    rng: np.random.Generator,
    runs: list[np.ndarray],
    patterns: Mapping[tuple[str, ...], float],
) -> list[tuple[str, ...]]:
    """Return the labelled tasks of each run, so that the patterns' shares of frames are met.

    Runs are visited in random order; each gets the pattern that has the fewest frames compared
    with its share.
    """
    choices, shares = list(patterns), np.array(list(patterns.values()))
    frames, assigned = np.zeros(len(choices)), [choices[0]] * len(runs)
    for run in rng.permutation(len(runs)):
        choice = int(np.argmax(shares * (frames.sum() + len(runs[run])) - frames))
        frames[choice] += len(runs[run])
        assigned[run] = choices[choice]
    return assigned
