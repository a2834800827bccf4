"""Messages between a trial's Tune actor and the slot that trains it: jobs and events.

A slot is a process, or a group of DDP workers, that trains one trial after another. It gets a job
and returns events. Messages are plain data without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

INTERRUPTED = "interrupted: the same command goes on"
"""Reason of a sweep's end after Ctrl-C, as it is printed."""

EndState = Literal["complete", "pruned", "interrupted"]


@dataclass(frozen=True)
class Job:
    """Trial as it is sent to a slot (process or group of DDP workers) to be trained.

    Attributes:
        name: ``<sweep>/<number> <encoder> <head> <framework>``, as Ray's dashboard shows it.
        config: The trial's config as plain data.
        rungs: Epochs after which the slot waits for the study's decision to prune or go on.
        prunes_collapse: True if the slot also waits for a decision after each epoch after which all
            tasks have collapsed (their outputs are nearly constant).
        reported: Last epoch that the study has recorded; events are yielded for the epochs after
            it.
        stopped: True if the trial was pruned after the epoch ``reported``, and only its predictions
            are missing.
        undecided: True if the study's decision after the epoch ``reported`` has not been received
            yet.
        restarts: Number of times that the trial may continue after its workers died.
        fold: Index of the held-out fold, if this is an ensemble's trial that is trained again; else
            None.
        checkpoint: Checkpoint to continue from; None for a new trial.
        weights: Epoch -> safetensors of the model, for the best epochs up to the checkpoint.
    """

    name: str
    config: dict[str, Any]
    rungs: frozenset[int] = frozenset()
    prunes_collapse: bool = False
    reported: int = 0
    stopped: bool = False
    undecided: bool = False
    restarts: int = 0
    fold: int | None = None
    checkpoint: bytes | None = None
    weights: Mapping[int, bytes] = field(default_factory=dict)

    def waits_after(self, result: Mapping[str, Any]) -> bool:
        """Return True if the slot waits for the study's decision after an epoch.

        Args:
            result: Fields of the epoch's ``mtl.training.trainer.EpochResult``.
        """
        return result["epoch"] in self.rungs or (self.prunes_collapse and all_collapsed(result))


def all_collapsed(result: Mapping[str, Any]) -> bool:
    """Return True if all trained tasks have collapsed: their outputs are nearly constant.

    Tasks without an output spread (no labels on ``select``, or constant ones) do not count; at
    least one task must have one.

    Args:
        result: Fields of an epoch's ``mtl.training.trainer.EpochResult``.
    """
    collapsed: Mapping[str, bool] = result["collapsed"]
    return bool(collapsed) and all(collapsed.values())


@dataclass(frozen=True)
class Begin:
    """Event: a group of DDP workers has started or continued to train a trial.

    Attributes:
        restarts: Number of times that workers of this trial died before.
        placement_group: Ray's id of the workers' placement group, in hexadecimal digits.
    """

    restarts: int
    placement_group: str


@dataclass(frozen=True)
class Epoch:
    """Event: an epoch of a trial has ended.

    Attributes:
        result: Fields of ``mtl.training.trainer.EpochResult``.
        checkpoint: Checkpoint after this epoch; None if it was sent before.
        weights: Safetensors of the model if this epoch is the best so far of some task, else None.
    """

    result: dict[str, Any]
    checkpoint: bytes | None
    weights: bytes | None


@dataclass(frozen=True)
class End:
    """Event: a trial has ended, with predictions unless it was interrupted.

    N is the number of listed frames (named in the annotation files) of the videos in the splits
    ``select``, ``confirm`` and ``test``.

    Attributes:
        state: "complete", "pruned" or "interrupted".
        rows: Row of each predicted frame among all listed frames, shape (N,).
        outputs: Model outputs, shape (N, 22), in the columns ``mtl.tasks.OUTPUT_COLUMNS``. The
            columns of each task are predicted with the weights of this task's best epoch.
        seconds: Time that predicting these frames took.
        models: Number of models that predicted these frames: one for each epoch that is the best
            one of some task.
        collapsed: Tasks that have collapsed after the last epoch: their outputs are nearly
            constant.
    """

    state: EndState
    rows: Int[np.ndarray, " N"]
    outputs: Float[np.ndarray, "N 22"]
    seconds: float = 0.0
    models: int = 0
    collapsed: tuple[str, ...] = ()


Event = Begin | Epoch | End


class TrialFailed(Exception):
    """Exception of a trial that failed in a worker, which can still train other trials.

    Args:
        reason: Reason of the failure, in one line.
        trace: Traceback of the worker, or the reason where there is none.
    """

    def __init__(self, reason: str, trace: str) -> None:
        super().__init__(reason, trace)
        self.reason, self.trace = reason, trace


class SlotLost(Exception):
    """Exception of a slot (group of DDP workers) that can train no more.

    The trial of the slot continues in another slot.
    """
