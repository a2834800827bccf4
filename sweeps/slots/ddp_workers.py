"""What each DDP worker of a group slot does, from its start to its end: train the slot's jobs.

The first worker talks with the slot and shares what it hears; all take the same steps. An error
that all workers meet at the same place (``TrainingError``) ends the trial alone. Any other ends the
group too, since the other workers wait for a collective that will not come: Train starts it anew.
"""

import re
import traceback
from typing import Any, Literal

import ray
import torch
from ray.actor import ActorHandle

from mtl.config import read_config
from mtl.errors import TrainingError, in_one_line
from mtl.optimisation.distributed import Workers
from sweeps.data.trial_data import SlotData
from sweeps.records.messages import Job
from sweeps.slots.control import Stop
from sweeps.slots.mailbox import SHUTDOWN, Assignment
from sweeps.slots.setup import SlotSetup
from sweeps.slots.trial_loop import HEARTBEAT_SECONDS, JobRun


def train_jobs(slot: ActorHandle[Any], setup: list[ray.ObjectRef[SlotSetup]]) -> None:
    """Train the slot's jobs until it sends its workers home."""
    given = ray.get(setup[0])
    torch.set_num_threads(given.threads)
    workers = Workers.from_process_group()
    data = SlotData(given.shards, given.listing, given.parts, given.folds)
    here = ray.util.get_current_placement_group()
    place = here.id.hex() if here else ""
    while True:
        asked: Assignment | Literal["home"] | None = None
        if workers.rank == 0:
            asked = _answer(slot.take.remote(place, HEARTBEAT_SECONDS))
        handed = workers.broadcast_object(asked)
        if handed == SHUTDOWN:
            return
        if handed is not None:
            if workers.rank == 0:
                _answer(slot.begin.remote(handed.number))
            _train(slot, handed, data, workers)


def _train(slot: ActorHandle[Any], handed: Assignment, data: SlotData, workers: Workers) -> None:
    on_its_way: list[Any] = []
    try:
        config = read_config(handed.job.config)
        told = FromSlot(slot, handed.job) if workers.rank == 0 else None
        held = data.for_trial(config, handed.job.fold)
        for event in JobRun(handed.job, config, held, told, workers).events():
            if workers.rank == 0:
                # One at a time, in their order; the next epoch does not wait for it.
                ray.get(on_its_way)
                on_its_way = [slot.put.remote(handed.number, event)]
        ray.get(on_its_way)
    except Exception as error:
        # What ended before is not lost with what broke.
        ray.get(on_its_way)
        trace, own = "".join(traceback.format_exception(error)), not says_that_a_peer_is_gone(error)
        _answer(slot.fail.remote(handed.number, in_one_line(error), trace, own))
        if not isinstance(error, TrainingError):
            raise


def _answer(reference: Any) -> Any:
    return ray.get(reference)


class FromSlot:
    """The slot's control, heard in another process: a stop comes by itself, so that looking
    for it every few steps costs nothing.
    """

    def __init__(self, slot: ActorHandle[Any], job: Job) -> None:
        self._slot, self._job = slot, job
        self._stop = Stop.NOT
        self._listen()

    def _listen(self) -> None:
        call: Any = self._slot.stop_above
        self._next = call.remote(self._job.name, self._stop, HEARTBEAT_SECONDS)

    def stopped(self) -> Stop:
        """Whether to stop, and when."""
        if ray.wait([self._next], timeout=0)[0]:
            self._stop = ray.get(self._next)
            self._listen()
        return self._stop

    def decision(self, epoch: int, seconds: float) -> bool | None:
        """The study's word on an epoch; None if it does not come in this time."""
        said: bool | None = _answer(self._slot.decision.remote(epoch, seconds))
        return said


def says_that_a_peer_is_gone(error: Exception) -> bool:
    """Whether a collective broke because another worker did: then that one's word counts."""
    if isinstance(error, torch.distributed.DistError):
        return True
    text = "gloo|nccl|connection (closed|reset) by peer"
    return isinstance(error, RuntimeError) and bool(re.search(text, str(error), re.IGNORECASE))
