"""Slot of several DDP workers: one resident Ray Train run that trains one trial after another.

The slot is an actor that holds no CPU or GPU. One of its threads runs the workers
(``sweeps.cluster.worker_group``), which ask the actor for trials (``sweeps.slots.ddp_workers``).
The trial in training is kept in the actor's mailbox, so if a worker dies and Ray Train starts the
group again, the trial continues from its last epoch.

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
"""Longest time in seconds that closing a slot waits for its workers to end."""
MOST_FAILURES = 20
"""Number of failures of workers after which a slot is given up and another one is started.

The failures of each single trial are limited too, by ``Job.restarts``.
"""


class GroupSlot(Slot):
    """Ray actor of a slot with several DDP workers, which train one trial after another.

    ``train`` runs one job (trial) at a time; the other calls run meanwhile.

    Args:
        name: Name of the Ray Train run: ``<sweep>-slot-<k>``, with the slot's number k.
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
        """Start the DDP workers and return the id of their placement group once they are up.

        Args:
            setup: Reference to the ``SlotSetup`` (features, listed frames and splits), in a list,
                so that Ray does not fetch it here.
        """
        slot = ray.get_runtime_context().current_actor
        self._fitting = threading.Thread(target=self._fit, args=(slot, setup), daemon=True)
        self._fitting.start()
        return self._mailbox.ready()

    def train(self, job: Job) -> Iterator[Event]:
        """Train a trial with the DDP workers and yield its events.

        Args:
            job: The trial.

        Yields:
            ``Begin`` when workers have started it, ``Epoch`` after each epoch, ``End`` at the end.

        Raises:
            TrialFailed: If the trial failed.
            SlotLost: If the workers have ended for good.
        """
        self._control.begin(job.name)
        yield from self._mailbox.events(job)

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        """Give the DDP workers no more trials, and wait for them to end."""
        self._mailbox.close()
        if self._fitting:
            self._fitting.join(CLOSE_SECONDS)

    @ray.method(concurrency_group="workers")
    def take(self, placement_group: str, seconds: float) -> Assignment | Literal["shutdown"] | None:
        """Wait for a trial to train, on behalf of the first DDP worker.

        Args:
            placement_group: Ray's id of the workers' placement group.
            seconds: Longest time to wait.

        Returns:
            The trial as an ``Assignment``; None if there is none in time; "shutdown" if the slot is
            closed.
        """
        return self._mailbox.take(placement_group, seconds)

    @ray.method(concurrency_group="workers")
    def begin(self, number: int) -> None:
        """Record that all DDP workers have started an assignment (trial handed to workers).

        Args:
            number: Number of the assignment.
        """
        self._mailbox.begin(number)

    @ray.method(concurrency_group="workers")
    def put(self, number: int, event: Epoch | End) -> None:
        """Receive an event from the first DDP worker.

        Args:
            number: Number of the assignment (trial handed to workers).
            event: End of an epoch, or of the trial.
        """
        self._mailbox.put(number, event)

    @ray.method(concurrency_group="workers")
    def fail(self, number: int, reason: str, trace: str, own: bool) -> None:
        """Record that a trial failed in a DDP worker.

        Args:
            number: Number of the assignment (trial handed to workers).
            reason: Reason of the failure, in one line.
            trace: Traceback of the worker.
            own: True if the trial caused the error; False if another worker's death did.
        """
        self._mailbox.fail(number, TrialFailed(reason, trace), own)

    @ray.method(concurrency_group="workers")
    def decision(self, epoch: int, seconds: float) -> bool | None:
        """Wait for the study's decision to prune the trial after an epoch, or to go on.

        Args:
            epoch: The epoch.
            seconds: Longest time to wait.

        Returns:
            True if the trial is pruned; False if it continues or a stop was requested; None if
            neither came in time.
        """
        return self._control.decision(epoch, seconds)

    @ray.method(concurrency_group="workers")
    def stop_above(self, job: str, known: Stop, seconds: float) -> Stop:
        """Wait for a more urgent request to stop than a known one, or for the next trial.

        Args:
            job: Name of the job in training; the wait ends if another job starts.
            known: The most urgent request that the caller knows.
            seconds: Longest time to wait.

        Returns:
            The most urgent request so far.
        """
        return self._control.stop_above(job, known, seconds)
