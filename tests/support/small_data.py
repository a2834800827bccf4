"""Datasets of a few kilobytes for tests, and search files over them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mtl.dataset import Dataset, Listing, write_dataset
from sweeps.search_file import SearchFile, load

SPLITS = ("train",) * 4 + ("validation",) * 4 + ("test",) * 2
NAMES = tuple(f"v{number}" for number in range(len(SPLITS)))
FRAMES = tuple(range(1, 21))
WIDTH = 3


def make_listing(known: Iterable[int] = range(15), subjects: tuple[str, ...] = NAMES) -> Listing:
    """Return ten videos of 20 frames with labels in the columns ``known``, except in test."""
    random = np.random.default_rng(0)
    rows = len(NAMES) * len(FRAMES)
    video = np.repeat(np.arange(len(NAMES), dtype=np.int32), len(FRAMES))
    mask = np.zeros((rows, 15), bool)
    mask[:, list(known)] = (video < SPLITS.index("test"))[:, None]
    values = random.integers(0, 2, (rows, 15)).astype(np.float32)
    values[:, 2] = random.integers(0, 8, rows)
    values[:, :2] = random.uniform(-1, 1, (rows, 2))
    frame = np.tile(np.array(FRAMES, np.int32), len(NAMES))
    return Listing(NAMES, SPLITS, subjects, video, frame, values * mask, mask)


def make_dataset(
    folder: Path,
    listing: Listing | None = None,
    frames: Mapping[str, Mapping[str, Iterable[int]]] | None = None,
) -> Dataset:
    """Write a dataset of random features.

    Args:
        folder: Dataset directory to write.
        listing: Listing of the dataset; ``make_listing()`` if None.
        frames: Frame numbers with features, by feature set and video.
    """
    frames = frames or {"appearance": dict.fromkeys(NAMES, FRAMES)}
    random = np.random.default_rng(1)

    def blocks(videos: Mapping[str, Iterable[int]]) -> list[tuple[str, np.ndarray, np.ndarray]]:
        numbers = {name: np.array(list(of), np.int32) for name, of in sorted(videos.items())}
        return [
            (name, of_video, random.normal(size=(len(of_video), WIDTH)).astype(np.float32))
            for name, of_video in numbers.items()
        ]

    sets = {name: blocks(videos) for name, videos in frames.items()}
    return write_dataset(folder, listing or make_listing(), sets, sources={})


def write_space(folder: Path, data: str, /, **changes: Any) -> Path:
    """Write a search file; ``changes`` replace whole sections."""
    settings = {
        "name": "small",
        "data": data,
        "search": {"trials": 4, "seed": 3},
        "fixed": {"encoder.hidden": 8, "training.epochs": 3},
        "space": {"optim.lr": {"min": 1e-3, "max": 1e-1, "log": True}},
        **changes,
    }
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file


def search_file(folder: Path, *overrides: str, **changes: Any) -> SearchFile:
    """Write a search file and load it with these overrides."""
    return load(write_space(folder, "data", **changes), overrides)
