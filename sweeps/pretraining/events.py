"""What the workers of a pretraining tell its driver."""

import queue
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from mtl.pretraining.pretrainer import PretrainResult


@dataclass(frozen=True)
class Began:
    """The workers are up, and go on after this epoch."""

    epoch: int


@dataclass(frozen=True)
class Waiting:
    """The workers have not begun for a while."""


@dataclass(frozen=True)
class Died:
    """A worker died of this; Ray Train starts the group anew, unless that was once too often."""

    cause: str


@dataclass(frozen=True)
class PretrainingEpoch:
    """An epoch's end.

    Attributes:
        result: It.
        checkpoint: Where to go on, every ``training.checkpoint_epochs``.
        weights: The backbone's by name, where they are the ones to keep.
        picture: (faces, 3, S, S, 3) of a masked autoencoder, every ``picture_epochs``.
    """

    result: PretrainResult
    checkpoint: bytes | None = field(default=None, repr=False)
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    picture: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Broken:
    """Images that could not be read, each with its reason."""

    images: tuple[str, ...]


@dataclass(frozen=True)
class Failed:
    """Why the pretraining cannot go on; ``mistake`` if that is the user's."""

    reason: str
    mistake: bool


@dataclass(frozen=True)
class Ended:
    """The workers are gone: all is done, or this happened."""

    reason: str | None


Event = Began | Waiting | Died | PretrainingEpoch | Broken | Failed | Ended


class EventLog:
    """What an actor keeps between the workers and their driver: it outlives them.

    Args:
        checkpoint: Where an earlier run left off.
    """

    def __init__(self, checkpoint: bytes | None) -> None:
        self._checkpoint = checkpoint
        self._events: queue.Queue[Event] = queue.Queue()

    def checkpoint(self) -> bytes | None:
        """The newest."""
        return self._checkpoint

    def put(self, event: Event) -> None:
        """Tell the driver."""
        if isinstance(event, PretrainingEpoch) and event.checkpoint is not None:
            self._checkpoint = event.checkpoint
        self._events.put(event)

    def take(self, seconds: float) -> Event | None:
        """The next event, if it comes in this time."""
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            return None
