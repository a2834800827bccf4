"""The data of trials: feature sets held once, joined for each combination that is asked for."""

import functools
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from mtl.config import Frames, TrialConfig
from mtl.dataset import Listing
from mtl.feature_table import FeatureTable
from mtl.inference import TrialData
from mtl.sequences import (
    Part,
    VideoSequence,
    join,
    part_of,
    trained_tasks,
    training_prior,
)

PARTS = ("select", "confirm", "test")


class Tables(Protocol):
    """Where feature sets come from: ``sweeps.shards.Shards``, or files read in this process."""

    def load(self, name: str) -> FeatureTable:
        """A feature set in memory."""


class SlotData:
    """What one process has read: each feature set once, each combination joined once."""

    def __init__(self, shards: Tables, listing: Listing, parts: Mapping[str, str]) -> None:
        self.shards, self.listing, self.parts = shards, listing, parts
        self.table = functools.cache(shards.load)
        self.joined = functools.lru_cache(maxsize=8)(self._joined)

    def of(self, config: TrialConfig) -> TrialData:
        """The data of one trial."""
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

    def _joined(
        self, features: tuple[str, ...], which: Frames, stride: int
    ) -> tuple[tuple[VideoSequence, ...], dict[str, Part]]:
        tables = [self.table(name) for name in features]
        sequences = join(self.listing, tables, which, stride)
        train = tuple(s for name, s in sequences.items() if self.parts[name] == "train")
        parts = {
            part: part_of(self.listing, sequences, [n for n, p in self.parts.items() if p == part])
            for part in PARTS
        }
        return train, parts
