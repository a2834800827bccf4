"""Events that the workers of a pretraining send to the driver, and the queue that holds them."""

import queue
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from mtl.pretraining.pretrainer import PretrainResult


@dataclass(frozen=True)
class TrainingStarted:
    """Event: the workers are running and start to train.

    Attributes:
        epoch: Last finished epoch; 0 for a new training.
    """

    epoch: int


@dataclass(frozen=True)
class WorkersWaiting:
    """Event: the workers have not started for a while, so they may lack resources."""


@dataclass(frozen=True)
class WorkerDied:
    """Event: a worker died; Ray Train restarts all workers unless no restarts are left.

    Attributes:
        cause: Reason of the death, in one line.
    """

    cause: str


@dataclass(frozen=True)
class PretrainingEpoch:
    """Event: an epoch is finished.

    Attributes:
        result: Result of the epoch.
        checkpoint: Checkpoint after the epoch, every ``training.checkpoint_epochs``; else None.
        weights: The backbone's state dict if it replaces the kept weights; else None.
        picture: Faces and their reconstructions (faces, 3, S, S, 3), uint8, every
            ``picture_epochs`` of a masked autoencoder; else None.
    """

    result: PretrainResult
    checkpoint: bytes | None = field(default=None, repr=False)
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    picture: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class BrokenImages:
    """Event: images could not be read.

    Attributes:
        images: Path and reason of each image, separated by a colon.
    """

    images: tuple[str, ...]


@dataclass(frozen=True)
class PretrainingFailed:
    """Event: the pretraining cannot continue.

    Attributes:
        reason: Error message.
        mistake: True for a mistake of the user, False for a failure of the training.
    """

    reason: str
    mistake: bool


@dataclass(frozen=True)
class WorkersEnded:
    """Event: the workers have ended.

    Attributes:
        reason: Error message; None if the pretraining is complete.
    """

    reason: str | None


Event = (
    TrainingStarted
    | WorkersWaiting
    | WorkerDied
    | PretrainingEpoch
    | BrokenImages
    | PretrainingFailed
    | WorkersEnded
)


class EventLog:
    """Queue of events and newest checkpoint, kept in an actor that outlives the workers.

    Args:
        checkpoint: Checkpoint of an earlier run to continue; None for a new training.
    """

    def __init__(self, checkpoint: bytes | None) -> None:
        self._checkpoint = checkpoint
        self._events: queue.Queue[Event] = queue.Queue()

    def checkpoint(self) -> bytes | None:
        """Return the newest checkpoint; None if there is none."""
        return self._checkpoint

    def put(self, event: Event) -> None:
        """Add an event to the queue, and keep its checkpoint if it has one."""
        if isinstance(event, PretrainingEpoch) and event.checkpoint is not None:
            self._checkpoint = event.checkpoint
        self._events.put(event)

    def take(self, timeout_seconds: float) -> Event | None:
        """Remove and return the next event; None if there is none before the timeout."""
        try:
            return self._events.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
