"""Events that pretraining workers send to the driver process, and the queue that holds them."""

import queue
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from mtl.pretraining.pretrainer import PretrainResult


@dataclass(frozen=True)
class TrainingStarted:
    """Event: all workers of a pretraining have started, and begin to train.

    Attributes:
        epoch: Number of finished epochs; 0 for a new training.
    """

    epoch: int


@dataclass(frozen=True)
class WorkersWaiting:
    """Event: the workers have not started for some time; the cluster may lack CPUs or GPUs."""


@dataclass(frozen=True)
class WorkerDied:
    """Event: a worker of a pretraining died; Ray Train restarts all workers if restarts are left.

    Attributes:
        cause: Reason of the death, in one line.
    """

    cause: str


@dataclass(frozen=True)
class PretrainingEpoch:
    """Event: an epoch of a pretraining is finished.

    Attributes:
        result: Result of the epoch.
        checkpoint: Checkpoint after the epoch; None in epochs without a checkpoint.
        weights: The backbone's state dict if it is to replace the kept weights, else None.
        picture: Three versions of each of N faces of S x S pixels: original, masked, reconstructed
            (N, 3, S, S, 3), uint8; None in epochs without a picture.
    """

    result: PretrainResult
    checkpoint: bytes | None = field(default=None, repr=False)
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False)
    picture: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class BrokenImages:
    """Event: some images could not be read.

    Attributes:
        images: For each image its path and the reason, as ``path: reason``.
    """

    images: tuple[str, ...]


@dataclass(frozen=True)
class PretrainingFailed:
    """Event: the pretraining cannot continue.

    Attributes:
        reason: Error message.
        mistake: True if the user's config or images are the cause, False if the training failed.
    """

    reason: str
    mistake: bool


@dataclass(frozen=True)
class WorkersEnded:
    """Event: all workers of a pretraining have ended.

    Attributes:
        reason: Error message; None if all epochs are trained.
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
    """Queue of the events of a pretraining, with the checkpoint from which workers restart.

    Args:
        checkpoint: Checkpoint of an earlier run to continue; None for a new training.
    """

    def __init__(self, checkpoint: bytes | None) -> None:
        self._checkpoint = checkpoint
        self._events: queue.Queue[Event] = queue.Queue()

    def checkpoint(self) -> bytes | None:
        """Return the newest checkpoint, from which workers continue; None if there is none."""
        return self._checkpoint

    def put(self, event: Event) -> None:
        """Add an event to the queue; if the event has a checkpoint, keep it as the newest."""
        if isinstance(event, PretrainingEpoch) and event.checkpoint is not None:
            self._checkpoint = event.checkpoint
        self._events.put(event)

    def take(self, timeout_seconds: float) -> Event | None:
        """Remove the next event from the queue and return it; None if none comes in time."""
        try:
            return self._events.get(timeout=timeout_seconds)
        except queue.Empty:
            return None
