"""A slot of several DDP workers: one resident Ray Train run that is handed job after job.

The actor itself holds nothing. A thread of it holds the run (``sweeps.cluster.worker_group``),
whose workers take jobs from the actor's mailbox (``sweeps.slots.ddp_workers``). If a worker dies
Train starts the group anew, and the job in the mailbox goes on from its last epoch.

Tune's side of a trial imports this module with the slot's handle: what needs torch is imported in
the slot.
"""

import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray.actor import ActorHandle

from sweeps.records.messages import End, Epoch, Event, Job, TrialFailed
from sweeps.slots.base import Slot
from sweeps.slots.control import Stop
from sweeps.slots.mailbox import Assignment, Mailbox

if TYPE_CHECKING:
    from sweeps.search_file import ResourcesSection
    from sweeps.slots.setup import SlotSetup

CLOSE_SECONDS = 20
DEATHS = 20
"""Of workers, in the life of a group; then the slot is lost, and another one started. How often a
trial bears one is the mailbox's matter."""


class GroupSlot(Slot):
    """The actor: ``train`` runs one job at a time; the other calls reach it meanwhile.

    Args:
        name: Of the Train run: ``<sweep>-slot-<k>``.
        resources: What the workers hold.
    """

    def __init__(self, name: str, resources: "ResourcesSection") -> None:
        super().__init__()
        self._name, self._resources = name, resources
        self._mailbox = Mailbox()
        self._fitting: threading.Thread | None = None

    def _fit(self, slot: ActorHandle[Any], setup: "list[ray.ObjectRef[SlotSetup]]") -> None:
        from sweeps.cluster.worker_group import run_workers, why_it_ended

        reason = "its workers have gone"
        try:
            from sweeps.slots.ddp_workers import train_jobs

            run_workers(
                self._name,
                functools.partial(train_jobs, slot, setup),
                self._resources.workers_per_trial,
                self._resources.cpus_per_worker,
                self._resources.gpus_per_worker,
                DEATHS,
            )
        except Exception as error:
            reason = f"its worker group ended: {why_it_ended(error)}"
        self._mailbox.lose(reason)

    def ready(self, setup: "list[ray.ObjectRef[SlotSetup]]") -> str:
        """Start the workers, and answer once they are up.

        Args:
            setup: A reference to it, in a list, so that it is not fetched here.

        Returns:
            The id of their placement group.
        """
        slot = ray.get_runtime_context().current_actor
        self._fitting = threading.Thread(target=self._fit, args=(slot, setup), daemon=True)
        self._fitting.start()
        return self._mailbox.ready()

    def train(self, job: Job) -> Iterator[Event]:
        """Train a job, streaming its events."""
        self._control.begin(job.name)
        yield from self._mailbox.events(job)

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        """Send the workers home, and wait for them to go."""
        self._mailbox.close()
        if self._fitting:
            self._fitting.join(CLOSE_SECONDS)

    @ray.method(concurrency_group="workers")
    def take(self, placement_group: str, seconds: float) -> Assignment | Literal["home"] | None:
        """``Mailbox.take``, and the rest of its workers' side."""
        return self._mailbox.take(placement_group, seconds)

    @ray.method(concurrency_group="workers")
    def begin(self, number: int) -> None:
        """``Mailbox.begin``."""
        self._mailbox.begin(number)

    @ray.method(concurrency_group="workers")
    def put(self, number: int, event: Epoch | End) -> None:
        """``Mailbox.put``."""
        self._mailbox.put(number, event)

    @ray.method(concurrency_group="workers")
    def fail(self, number: int, reason: str, trace: str, own: bool) -> None:
        """``Mailbox.fail``."""
        self._mailbox.fail(number, TrialFailed(reason, trace), own)

    @ray.method(concurrency_group="workers")
    def decision(self, epoch: int, seconds: float) -> bool | None:
        """``TrialControl.decision``."""
        return self._control.decision(epoch, seconds)

    @ray.method(concurrency_group="workers")
    def stop_above(self, job: str, known: Stop, seconds: float) -> Stop:
        """``TrialControl.stop_above``."""
        return self._control.stop_above(job, known, seconds)
