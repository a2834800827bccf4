"""Data of the trials that one process trains; all trials share the loaded feature sets."""

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
"""Splits whose videos a trial predicts: two sets of validation videos, and the test videos.

Choices are made on ``select``; ``confirm`` is held back for the final scores.
"""


class FeatureLoader(Protocol):
    """Protocol of a class that loads feature sets, from Ray's object store or from files."""

    def load(self, name: str) -> FeatureTable:
        """Return the feature set with the given name as arrays in memory."""


class SlotData:
    """Features, labels and splits from which the data of each trial in one process is made.

    Each feature set is loaded once. The training sequences of the last 8 combinations of feature
    sets are cached.

    Args:
        shards: Loader of the feature sets.
        listing: Frames and labels from the annotation files.
        parts: Video's name -> split: ``train``, ``select`` (validation videos on which choices are
            made), ``confirm`` (validation videos held back for the final scores) or ``test``.
        folds: For each fold, a mapping like ``parts``, used while this fold is held out. It is
            empty unless trials are trained again on folds (refit).
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
        """Return the training sequences, the sequences to predict and the statistics of one trial.

        Args:
            config: Config of the trial.
            fold: Number of the fold that is held out, if the trial is trained on folds (refit);
                None for a trial of the search.
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
