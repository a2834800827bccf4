"""Which videos there are, which frames are listed, and which tasks are labelled where."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int32

from mtl.dataset import SPLITS
from mtl.synthetic.parameters import Demo

# Shares of the training frames labelled for these tasks. The challenge publishes valence/arousal
# 103,917, expression 90,645, action units 103,316 and all three 52,154 of 142,333 frames; how the
# frames with one or two of them divide is chosen here, in agreement with those margins.
TRAIN_PATTERNS = {
    ("affect", "expression", "action_units"): 0.3664,
    ("affect", "expression"): 0.1000,
    ("affect", "action_units"): 0.1600,
    ("expression", "action_units"): 0.1000,
    ("affect",): 0.1037,
    ("expression",): 0.0704,
    ("action_units",): 0.0995,
}
# Validation: valence/arousal and action units on all of 26,876 frames, expression on 15,440.
VALIDATION_PATTERNS = {
    ("affect", "expression", "action_units"): 0.5745,
    ("affect", "action_units"): 0.4255,
}
TEST_PATTERNS: dict[tuple[str, ...], float] = {(): 1.0}
PATTERNS = dict(zip(SPLITS, (TRAIN_PATTERNS, VALIDATION_PATTERNS, TEST_PATTERNS), strict=True))
COLUMNS = {"affect": slice(0, 2), "expression": slice(2, 3), "action_units": slice(3, 15)}


@dataclass(frozen=True)
class Layout:
    """The videos in listing order and their listed frame numbers."""

    names: tuple[str, ...]
    splits: tuple[str, ...]
    subjects: tuple[str, ...]
    frames: tuple[Int32[np.ndarray, " _"], ...]

    @property
    def video(self) -> Int32[np.ndarray, " N"]:
        """Index of each listed frame's video."""
        return np.repeat(np.arange(len(self.names)), [len(f) for f in self.frames]).astype(np.int32)

    def rows(self, split: str) -> Bool[np.ndarray, " N"]:
        """Which listed frames belong to the split."""
        return np.asarray(np.array([own == split for own in self.splits])[self.video])


def lay_out(rng: np.random.Generator, demo: Demo) -> Layout:
    """Videos of lognormal length over three splits; every fourth subject has a second video."""
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
    """Videos for training, validation and test; the last two have at least two."""
    validation, test = (max(2, round(videos * share)) for share in shares[1:])
    return videos - validation - test, validation, test


def _subjects(counts: tuple[int, ...]) -> list[int]:
    """A subject's number for each video: within a split numbers 0 0 1 2 3 | 4 4 5 6 7 | ..."""
    return [n - n // 5 - (n % 5 > 0) for count in counts for n in range(count)]


def _frame_numbers(rng: np.random.Generator, length: int, mean_gap_frames: float) -> np.ndarray:
    """Rising numbers from 1 on: gaps around the mean, and one in fifty ten times as long."""
    gaps = 1 + rng.poisson(mean_gap_frames - 1, length)
    gaps = np.where(rng.random(length) < 0.02, 10 * gaps, gaps)
    return np.asarray(1 + np.cumsum(gaps) - gaps[0], dtype=np.int32)


def label_mask(
    rng: np.random.Generator, layout: Layout, run_frames: float
) -> Bool[np.ndarray, "N 15"]:
    """Which of the 15 labels are known: whole runs of frames share a pattern."""
    mask = np.zeros((len(layout.video), 15), dtype=bool)
    runs = _runs(rng, layout.video, run_frames)
    for split, patterns in PATTERNS.items():
        own = [run for run in runs if layout.splits[layout.video[run[0]]] == split]
        for run, pattern in zip(own, _deal(rng, own, patterns), strict=True):
            for part in pattern:
                mask[run, COLUMNS[part]] = True
    return mask


def _runs(rng: np.random.Generator, video: np.ndarray, run_frames: float) -> list[np.ndarray]:
    """The listed frames cut at the ends of videos and at random between."""
    cut = (np.diff(video) > 0) | (rng.random(len(video) - 1) < 1 / run_frames)
    return np.split(np.arange(len(video)), np.flatnonzero(cut) + 1)


def _deal(
    rng: np.random.Generator,
    runs: list[np.ndarray],
    patterns: Mapping[tuple[str, ...], float],
) -> list[tuple[str, ...]]:
    """A pattern for each run: in random order, whichever is furthest behind its share."""
    kinds, shares = list(patterns), np.array(list(patterns.values()))
    given, dealt = np.zeros(len(kinds)), [kinds[0]] * len(runs)
    for run in rng.permutation(len(runs)):
        kind = int(np.argmax(shares * (given.sum() + len(runs[run])) - given))
        given[kind] += len(runs[run])
        dealt[run] = kinds[kind]
    return dealt
