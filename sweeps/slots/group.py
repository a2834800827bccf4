"""A slot of several DDP workers: one resident Ray Train run that is handed job after job.

The actor itself holds nothing. A thread of it runs ``TorchTrainer.fit``, whose workers take jobs
from the actor's desk (``sweeps.slots.workers``). If a worker dies Train starts the group anew, and
the job that lies on the desk goes on from its last epoch.
"""

import functools
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from sweeps.job import End, Epoch, Event, Job, TrialFailed, in_one_line
from sweeps.orders import Stop
from sweeps.search_file import Resources
from sweeps.slots.desk import Desk, Handed
from sweeps.slots.rendezvous import OneAddress
from sweeps.slots.setup import Setup
from sweeps.slots.slot import Slot
from sweeps.slots.workers import train_jobs

CLOSE_SECONDS = 20
DEATHS = 20
"""Of workers, in the life of a group; then the slot is lost, and another one started."""


class _Trainer(TorchTrainer):
    """Ray's, without a process beside each run that removes the placement group of one whose
    controller was killed, and that never ends once it has (ray 2.60). Here the sweep's driver
    removes that of a slot it has lost, and Ray those of a driver that is gone.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


class GroupSlot(Slot):
    """The actor: ``train`` runs one job at a time; the other calls reach it meanwhile.

    Args:
        name: Of the Train run: ``<sweep>-slot-<k>``.
        setup: A reference to the ``Setup``, in a list, so that it is not fetched here.
        resources: What the workers hold.
    """

    def __init__(self, name: str, setup: list[ray.ObjectRef[Setup]], resources: Resources) -> None:
        super().__init__()
        self._desk = Desk()
        slot = ray.get_runtime_context().current_actor
        work = functools.partial(train_jobs, slot, setup)
        self._fitting = threading.Thread(
            target=self._fit, args=(name, work, resources), daemon=True
        )
        self._fitting.start()

    def _fit(self, name: str, work: Callable[[], None], resources: Resources) -> None:
        share = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
        reason = "its workers have gone"
        try:
            with tempfile.TemporaryDirectory() as temporary:
                _Trainer(
                    work,
                    torch_config=OneAddress(),
                    scaling_config=ScalingConfig(
                        num_workers=resources.workers_per_trial,
                        use_gpu=resources.gpus_per_worker > 0,
                        resources_per_worker={k: v for k, v in share.items() if v},
                    ),
                    run_config=RunConfig(
                        name=name,
                        storage_path=temporary,
                        failure_config=FailureConfig(  # type: ignore[call-arg]
                            # How often a trial bears a death is the desk's matter.
                            max_failures=DEATHS,
                            # Workers that find no place are the sweep's: it says so, and starts
                            # another slot or gives it up.
                            controller_failure_limit=0,
                        ),
                    ),
                ).fit()
        except Exception as error:
            reason = f"its worker group ended: {in_one_line(error)}"
        self._desk.lose(reason)

    def ready(self) -> str:
        """Answers once the workers are up: the id of their placement group."""
        return self._desk.ready()

    def train(self, job: Job) -> Iterator[Event]:
        """Train a job, streaming its events."""
        self._orders.begin(job.name)
        yield from self._desk.events(job)

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        """Send the workers home, and wait for them to go."""
        self._desk.close()
        self._fitting.join(CLOSE_SECONDS)

    @ray.method(concurrency_group="workers")
    def take(self, placement_group: str, seconds: float) -> Handed | Literal["home"] | None:
        """``Desk.take``, and the rest of its workers' side."""
        return self._desk.take(placement_group, seconds)

    @ray.method(concurrency_group="workers")
    def begin(self, number: int) -> None:
        """``Desk.begin``."""
        self._desk.begin(number)

    @ray.method(concurrency_group="workers")
    def put(self, number: int, event: Epoch | End) -> None:
        """``Desk.put``."""
        self._desk.put(number, event)

    @ray.method(concurrency_group="workers")
    def fail(self, number: int, reason: str, trace: str, own: bool) -> None:
        """``Desk.fail``."""
        self._desk.fail(number, TrialFailed(reason, trace), own)

    @ray.method(concurrency_group="workers")
    def decision(self, epoch: int, seconds: float) -> bool | None:
        """``Orders.decision``."""
        return self._orders.decision(epoch, seconds)

    @ray.method(concurrency_group="workers")
    def stop_above(self, job: str, known: Stop, seconds: float) -> Stop:
        """``Orders.stop_above``."""
        return self._orders.stop_above(job, known, seconds)
