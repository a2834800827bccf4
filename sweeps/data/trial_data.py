"""Data of the trials of one process: feature sets are loaded once and shared by all trials."""

import functools
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from mtl.config import FrameChoice, TrialConfig
from mtl.dataset import Listing
from mtl.sequences.feature_table import FeatureTable
from mtl.sequences.folds import with_splits
from mtl.sequences.join import (
    Part,
    VideoSequence,
    join,
    part_of,
    trained_tasks,
    training_prior,
)
from mtl.training.inference import TrialData

PARTS = ("select", "confirm", "test")
"""Parts of the videos that a trial predicts."""


class FeatureLoader(Protocol):
    """Source of feature sets: ``sweeps.data.object_store.Shards``, or the dataset's files."""

    def load(self, name: str) -> FeatureTable:
        """Return a feature set in memory."""


class SlotData:
    """Data for the trials of one process.

    Each feature set is loaded once; the joined sequences of the last combinations of feature sets
    are cached.

    Args:
        shards: Source of the feature sets.
        listing: Listed frames of the dataset.
        parts: Part of each video: ``train``, ``select``, ``confirm`` or ``test``.
        folds: Part of each video while a fold is held out, for each fold of a refit.
    """

    def __init__(
        self,
        shards: FeatureLoader,
        listing: Listing,
        parts: Mapping[str, str],
        folds: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self.shards, self.listing, self.parts, self.folds = shards, listing, parts, folds
        self.table = functools.cache(shards.load)
        self.joined = functools.lru_cache(maxsize=8)(self._joined)
        # Trials of the same fold follow each other, so few folds are cached.
        self.held_out = functools.lru_cache(maxsize=2)(self._held_out)

    def for_trial(self, config: TrialConfig, fold: int | None = None) -> TrialData:
        """Return the data of one trial.

        Args:
            config: Config of the trial.
            fold: Fold of a refit that is held out; None for a trial of the search.
        """
        if fold is not None:
            return self.held_out(fold).for_trial(config)
        tables: list[FeatureTable] = [self.table(name) for name in config.features]
        sequence = config.sequence
        train, parts = self.joined(config.features, sequence.frames, sequence.frame_stride)
        return TrialData(
            trained_tasks(config.tasks, self.listing),
            train,
            parts,
            np.concatenate([table.mean for table in tables]),
            np.concatenate([table.std for table in tables]),
            training_prior(self.listing),
        )

    def _held_out(self, fold: int) -> "SlotData":
        parts = self.folds[fold]
        data = SlotData(self.shards, with_splits(self.listing, parts), parts)
        data.table = self.table
        return data

    def _joined(
        self, features: tuple[str, ...], frames: FrameChoice, stride: int
    ) -> tuple[tuple[VideoSequence, ...], dict[str, Part]]:
        tables = [self.table(name) for name in features]
        sequences = join(self.listing, tables, frames, stride)
        train = tuple(s for name, s in sequences.items() if self.parts[name] == "train")
        parts = {
            part: part_of(self.listing, sequences, [n for n, p in self.parts.items() if p == part])
            for part in PARTS
        }
        return train, parts
