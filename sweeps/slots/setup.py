"""Setup of a slot: shards of features, listed frames and parts of the videos."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtl.dataset import Listing
from sweeps.data.object_store import Shards


@dataclass(frozen=True)
class SlotSetup:
    """Data that a slot gets once, for all trials of a sweep.

    Attributes:
        shards: Blocks of the feature sets in the object store.
        listing: The dataset's listed frames.
        parts: The part of each video: ``train``, ``select``, ``confirm`` or ``test``.
        threads: Number of torch's threads in each worker.
        folds: The part of each video for each held-out fold of the refit.
    """

    shards: Shards
    listing: Listing
    parts: Mapping[str, str]
    threads: int
    folds: tuple[Mapping[str, str], ...] = ()
