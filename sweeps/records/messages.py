"""What goes between a trial and its slot: a job there, events back (plain data, no torch)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

INTERRUPTED = "interrupted: the same command goes on"
"""Why a sweep ended that somebody stopped."""

EndState = Literal["complete", "pruned", "interrupted"]


@dataclass(frozen=True)
class Job:
    """One trial for a slot.

    Attributes:
        name: ``<sweep>/<number> <encoder> <head> <framework>``, as the dashboard lists it.
        config: The trial's config as plain data.
        rungs: Epochs after which the slot waits for the study's decision.
        reported: The last epoch that the study knows; a resumed job yields what comes after it.
        stopped: It was pruned at that epoch, and only its end is missing.
        undecided: Whether it was is still to be heard.
        restarts: How often it may be taken up again after its workers died.
        fold: Of the refit: the one held out.
        checkpoint: Where an earlier process left off; ``weights`` are those of its best epochs.
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
    """A group of workers has taken a job up.

    Attributes:
        restarts: How often before, with workers that died since.
        placement_group: Where they are placed: the id that Ray knows it by.
    """

    restarts: int
    placement_group: str


@dataclass(frozen=True)
class Epoch:
    """An epoch has ended.

    Attributes:
        result: ``mtl.training.trainer.EpochResult`` as plain data.
        checkpoint: What a later process needs to go on; None if it was written before.
        weights: Safetensors, if this epoch is some task's best so far.
    """

    result: dict[str, Any]
    checkpoint: bytes | None
    weights: bytes | None


@dataclass(frozen=True)
class End:
    """A trial has ended; an interrupted one has no outputs.

    Attributes:
        state: How.
        rows: Listed frames of ``select``, ``confirm`` and ``test``: their place in the listing.
        outputs: Of those frames, each task's from its best epoch.
        seconds: What predicting them took, with so many ``models``: the weights of each best epoch.
    """

    state: EndState
    rows: Int[np.ndarray, " N"]
    outputs: Float[np.ndarray, "N 22"]
    seconds: float = 0.0
    models: int = 0


Event = Begin | Epoch | End


class TrialFailed(Exception):
    """A trial broke in a worker of its slot, which is free for the next.

    Args:
        reason: One line.
        trace: The worker's own, or what else is known.
    """

    def __init__(self, reason: str, trace: str) -> None:
        super().__init__(reason, trace)
        self.reason, self.trace = reason, trace


class SlotLost(Exception):
    """A slot that can train nothing more; its trial goes on in another."""
