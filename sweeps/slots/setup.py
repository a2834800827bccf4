"""What a slot is given once: where the features lie, what is listed, how videos are divided."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtl.dataset import Listing
from sweeps.data.object_store import Shards


@dataclass(frozen=True)
class SlotSetup:
    """For all trials of a sweep.

    Attributes:
        parts: The part of each video: ``train``, ``select``, ``confirm`` or ``test``.
        folds: The same where each fold of the refit is held out.
        threads: Torch's, of each worker.
    """

    shards: Shards
    listing: Listing
    parts: Mapping[str, str]
    threads: int
    folds: tuple[Mapping[str, str], ...] = ()
