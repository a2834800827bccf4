"""Messages between a trial and its slot: a job one way, events the other (plain data, no torch)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

INTERRUPTED = "interrupted: the same command goes on"
"""Reason of a sweep's end after Ctrl-C."""

EndState = Literal["complete", "pruned", "interrupted"]


@dataclass(frozen=True)
class Job:
    """One trial, to be trained in a slot.

    Attributes:
        name: ``<sweep>/<number> <encoder> <head> <framework>``, as Ray's dashboard lists it.
        config: The trial's config as plain data.
        rungs: Epochs after which the slot waits for the study's decision.
        reported: Last epoch that the study has recorded; the slot yields the epochs after it.
        stopped: True if the trial was pruned at that epoch and only its end is missing.
        undecided: True if the study's decision after that epoch is still to come.
        restarts: Number of times that the trial may continue after its workers died.
        fold: Index of the held-out fold of a refit; None for other trials.
        checkpoint: Checkpoint to continue from; None for a new trial.
        weights: Epoch -> safetensors of the best epochs up to the checkpoint.
    """

    name: str
    config: dict[str, Any]
    rungs: frozenset[int] = frozenset()
    reported: int = 0
    stopped: bool = False
    undecided: bool = False
    restarts: int = 0
    fold: int | None = None
    checkpoint: bytes | None = None
    weights: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Begin:
    """Event: a group of workers has started or continued a job.

    Attributes:
        restarts: Number of times that workers died on this job before.
        placement_group: Ray's id of the workers' placement group, in hexadecimal digits.
    """

    restarts: int
    placement_group: str


@dataclass(frozen=True)
class Epoch:
    """Event: an epoch has ended.

    Attributes:
        result: ``mtl.training.trainer.EpochResult`` as plain data.
        checkpoint: Checkpoint after this epoch; None if it was sent before.
        weights: Safetensors if this epoch is the best so far of some task, else None.
    """

    result: dict[str, Any]
    checkpoint: bytes | None
    weights: bytes | None


@dataclass(frozen=True)
class End:
    """Event: a trial has ended.

    Attributes:
        state: Kind of the end; an interrupted trial has no outputs.
        rows: Rows of the listed frames of ``select``, ``confirm`` and ``test`` in the listing.
        outputs: Outputs of those frames, each task's by the weights of its best epoch.
        seconds: Duration of predicting those frames.
        models: Number of models that predicted them: one for each best epoch.
    """

    state: EndState
    rows: Int[np.ndarray, " N"]
    outputs: Float[np.ndarray, "N 22"]
    seconds: float = 0.0
    models: int = 0


Event = Begin | Epoch | End


class TrialFailed(Exception):
    """Exception of a trial that failed in a worker of its slot; the slot can train other trials.

    Args:
        reason: Reason in one line.
        trace: Traceback of the worker, or the reason where there is none.
    """

    def __init__(self, reason: str, trace: str) -> None:
        super().__init__(reason, trace)
        self.reason, self.trace = reason, trace


class SlotLost(Exception):
    """Exception of a slot that can train no more; its trial continues in another slot."""
