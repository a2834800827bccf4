"""The data of trials: feature sets held once, joined for each combination that is asked for."""

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


class Tables(Protocol):
    """Source of feature sets: ``sweeps.data.object_store.Shards``, or files read here."""

    def load(self, name: str) -> FeatureTable:
        """A feature set in memory."""


class SlotData:
    """What one process has read: each feature set once, each combination joined once.

    Args:
        shards: Where feature sets come from.
        listing: The listed frames.
        parts: The part of each video.
        folds: The same where each fold of a refit is held out.
    """

    def __init__(
        self,
        shards: Tables,
        listing: Listing,
        parts: Mapping[str, str],
        folds: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self.shards, self.listing, self.parts, self.folds = shards, listing, parts, folds
        self.table = functools.cache(shards.load)
        self.joined = functools.lru_cache(maxsize=8)(self._joined)
        # Folds come one after another.
        self.held_out = functools.lru_cache(maxsize=2)(self._held_out)

    def of(self, config: TrialConfig, fold: int | None = None) -> TrialData:
        """The data of one trial, or of it where a fold is held out."""
        if fold is not None:
            return self.held_out(fold).of(config)
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
        other = SlotData(self.shards, with_splits(self.listing, parts), parts)
        other.table = self.table
        return other

    def _joined(
        self, features: tuple[str, ...], which: FrameChoice, stride: int
    ) -> tuple[tuple[VideoSequence, ...], dict[str, Part]]:
        tables = [self.table(name) for name in features]
        sequences = join(self.listing, tables, which, stride)
        train = tuple(s for name, s in sequences.items() if self.parts[name] == "train")
        parts = {
            part: part_of(self.listing, sequences, [n for n, p in self.parts.items() if p == part])
            for part in PARTS
        }
        return train, parts
