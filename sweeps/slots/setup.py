"""Data that a slot (process or group of DDP workers that trains trials) gets once."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtl.dataset import Listing
from sweeps.data.object_store import Shards


@dataclass(frozen=True)
class SlotSetup:
    """Data that a slot gets once, for all trials of a sweep that it trains.

    A slot is a process, or a group of DDP workers, that trains one trial after another.

    Attributes:
        shards: References to the features in Ray's object store.
        listing: All frames named in the dataset's annotation files.
        parts: Video's name -> split: ``train``, ``select``, ``confirm`` or ``test``.
        threads: Number of torch's threads in each worker.
        folds: For each fold, a mapping like ``parts``, used while this fold is held out; empty
            without folds.
    """

    shards: Shards
    listing: Listing
    parts: Mapping[str, str]
    threads: int
    folds: tuple[Mapping[str, str], ...] = ()
