"""DDP workers of a slot: they train one trial after another until the slot is closed.

The slot is a Ray actor. Only the first worker calls it, and broadcasts the answers, so all workers
take the same steps. An error that all workers raise at the same place (``TrainingError``) fails
only the trial. Any other error ends the group of workers too, since the other workers would wait
for a collective call without end; Ray Train then starts the group again.
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
from sweeps.slots.control import Stop, TrialControl
from sweeps.slots.mailbox import SHUTDOWN, Assignment
from sweeps.slots.setup import SlotSetup
from sweeps.slots.trial_loop import HEARTBEAT_SECONDS, TrialLoop


def train_jobs(slot: ActorHandle[Any], setup: list[ray.ObjectRef[SlotSetup]]) -> None:
    """Train one trial after another in a DDP worker, until the slot is closed.

    Args:
        slot: Ray actor that gives the trials and receives their events.
        setup: Reference to the ``SlotSetup`` (features, listed frames and splits), in a list, so
            that Ray does not fetch it early.
    """
    given = ray.get(setup[0])
    torch.set_num_threads(given.threads)
    workers = Workers.from_process_group()
    data = SlotData(given.shards, given.listing, given.parts, given.folds)
    group = ray.util.get_current_placement_group()
    placement_group = group.id.hex() if group else ""
    while True:
        answer: Assignment | Literal["shutdown"] | None = None
        if workers.rank == 0:
            answer = _get(slot.take.remote(placement_group, HEARTBEAT_SECONDS))
        assignment = workers.broadcast_object(answer)
        if assignment == SHUTDOWN:
            return
        if assignment is not None:
            if workers.rank == 0:
                _get(slot.begin.remote(assignment.number))
            _train(slot, assignment, data, workers)


def _train(
    slot: ActorHandle[Any], assignment: Assignment, data: SlotData, workers: Workers
) -> None:
    pending: list[Any] = []
    try:
        config = read_config(assignment.job.config)
        control = RemoteTrialControl(slot, assignment.job) if workers.rank == 0 else None
        trial_data = data.for_trial(config, assignment.job.fold)
        for event in TrialLoop(assignment.job, config, trial_data, control, workers).events():
            if workers.rank == 0:
                # Events are sent one at a time, in order; the next epoch does not wait for one.
                ray.get(pending)
                pending = [slot.put.remote(assignment.number, event)]
        ray.get(pending)
    except Exception as error:
        # Events before the error are delivered first.
        ray.get(pending)
        trace, own = "".join(traceback.format_exception(error)), not is_peer_failure(error)
        _get(slot.fail.remote(assignment.number, in_one_line(error), trace, own))
        if not isinstance(error, TrainingError):
            raise


def _get(reference: Any) -> Any:
    return ray.get(reference)


class RemoteTrialControl(TrialControl):
    """Pruning decisions and stop requests for a trial, read by a DDP worker from the slot's actor.

    A call that waits for a stop request is always open, so checking for a request every few steps
    costs nothing.

    Args:
        slot: Ray actor of the slot, which holds the decisions and requests.
        job: The trial in training.
    """

    def __init__(self, slot: ActorHandle[Any], job: Job) -> None:
        super().__init__()
        self._slot, self._job_name = slot, job.name
        self._listen()

    def _listen(self) -> None:
        call: Any = self._slot.stop_above
        self._next = call.remote(self._job_name, self._stop, HEARTBEAT_SECONDS)

    def stopped(self) -> Stop:
        """Return the most urgent request to stop so far; ``Stop.NOT`` without one."""
        if ray.wait([self._next], timeout=0)[0]:
            self._stop = ray.get(self._next)
            self._listen()
        return self._stop

    def decision(self, epoch: int, seconds: float) -> bool | None:
        """Wait for the study's decision to prune the trial after an epoch, or to go on.

        Args:
            epoch: The epoch.
            seconds: Longest time to wait.

        Returns:
            True if the trial is pruned; False if it continues or a stop was requested; None if
            neither came in time.
        """
        prune: bool | None = _get(self._slot.decision.remote(epoch, seconds))
        return prune


def is_peer_failure(error: Exception) -> bool:
    """Return True if a collective call failed because another DDP worker failed.

    Args:
        error: Error that the call raised.
    """
    if isinstance(error, torch.distributed.DistError):
        return True
    text = "gloo|nccl|connection (closed|reset) by peer"
    return isinstance(error, RuntimeError) and bool(re.search(text, str(error), re.IGNORECASE))
