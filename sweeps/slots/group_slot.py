"""Slot of several DDP workers: one resident Ray Train run that trains one job after another.

The actor itself holds no CPU or GPU. One of its threads runs the workers
(``sweeps.cluster.worker_group``), which take jobs from the actor's mailbox
(``sweeps.slots.ddp_workers``). If a worker dies, Ray Train starts the group again, and the job in
the mailbox continues from its last epoch.

Tune's side of a trial imports this module with the slot's handle, so modules that need torch are
imported only in the slot.
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
"""Longest time that closing a slot waits for its workers to end."""
MOST_FAILURES = 20
"""Failures of workers after which a slot is given up and another one is started.

The number of failures that one trial may have is counted by the mailbox.
"""


class GroupSlot(Slot):
    """Actor of the slot: ``train`` runs one job at a time, the other calls run meanwhile.

    Args:
        name: Name of the Ray Train run: ``<sweep>-slot-<k>``.
        resources: Resources section of the search file.
    """

    def __init__(self, name: str, resources: "ResourcesSection") -> None:
        super().__init__()
        self._name, self._resources = name, resources
        self._mailbox = Mailbox()
        self._fitting: threading.Thread | None = None

    def _fit(self, slot: ActorHandle[Any], setup: "list[ray.ObjectRef[SlotSetup]]") -> None:
        from sweeps.cluster.worker_group import describe_failure, run_workers

        reason = "its workers have gone"
        try:
            from sweeps.slots.ddp_workers import train_jobs

            run_workers(
                self._name,
                functools.partial(train_jobs, slot, setup),
                self._resources.workers_per_trial,
                self._resources.cpus_per_worker,
                self._resources.gpus_per_worker,
                MOST_FAILURES,
            )
        except Exception as error:
            reason = f"its worker group ended: {describe_failure(error)}"
        self._mailbox.lose(reason)

    def ready(self, setup: "list[ray.ObjectRef[SlotSetup]]") -> str:
        """Start the workers and return the id of their placement group once they are up.

        Args:
            setup: Reference to the slot's setup, in a list, so that Ray does not fetch it here.
        """
        slot = ray.get_runtime_context().current_actor
        self._fitting = threading.Thread(target=self._fit, args=(slot, setup), daemon=True)
        self._fitting.start()
        return self._mailbox.ready()

    def train(self, job: Job) -> Iterator[Event]:
        """Train a job and yield its events."""
        self._control.begin(job.name)
        yield from self._mailbox.events(job)

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        """Close the mailbox and wait for the workers to end."""
        self._mailbox.close()
        if self._fitting:
            self._fitting.join(CLOSE_SECONDS)

    @ray.method(concurrency_group="workers")
    def take(self, placement_group: str, seconds: float) -> Assignment | Literal["shutdown"] | None:
        """Call ``Mailbox.take`` for a worker."""
        return self._mailbox.take(placement_group, seconds)

    @ray.method(concurrency_group="workers")
    def begin(self, number: int) -> None:
        """Call ``Mailbox.begin`` for a worker."""
        self._mailbox.begin(number)

    @ray.method(concurrency_group="workers")
    def put(self, number: int, event: Epoch | End) -> None:
        """Call ``Mailbox.put`` for a worker."""
        self._mailbox.put(number, event)

    @ray.method(concurrency_group="workers")
    def fail(self, number: int, reason: str, trace: str, own: bool) -> None:
        """Call ``Mailbox.fail`` for a worker."""
        self._mailbox.fail(number, TrialFailed(reason, trace), own)

    @ray.method(concurrency_group="workers")
    def decision(self, epoch: int, seconds: float) -> bool | None:
        """Call ``TrialControl.decision`` for a worker."""
        return self._control.decision(epoch, seconds)

    @ray.method(concurrency_group="workers")
    def stop_above(self, job: str, known: Stop, seconds: float) -> Stop:
        """Call ``TrialControl.stop_above`` for a worker."""
        return self._control.stop_above(job, known, seconds)
