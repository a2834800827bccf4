"""Functions of the driver process of a pretraining: start the workers, receive their events."""

import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtl.errors import InputError, TrainingError
from sweeps.cluster.connection import train_settings
from sweeps.cluster.worker_group import describe_failure, run_workers
from sweeps.pretraining.events import (
    Event,
    EventLog,
    PretrainingFailed,
    TrainingStarted,
    WorkerDied,
    WorkersEnded,
    WorkersWaiting,
)
from sweeps.pretraining.setup import PretrainingSetup
from sweeps.pretraining.workers import pretrain

ACTOR_THREADS = 8
"""Threads of the actor: one serves the driver's calls, the others serve the workers' calls."""
TAKE_TIMEOUT_SECONDS = 5.0
"""Time that one call waits for the next event before it returns without one."""
TIMEOUTS_UNTIL_WAITING = 6
"""Number of calls without an event after which the driver reports that no worker has started."""
START_MINUTES = 15
"""Time within which all workers must have started."""


class WorkerRunner(EventLog):
    """Ray actor that runs the workers of a pretraining and holds their events for the driver.

    The workers are not run in a thread of the driver process, because such a thread would keep
    the process from ending.
    """

    def start(
        self,
        name: str,
        setup: "list[ray.ObjectRef[PretrainingSetup]]",
        workers: int,
        cpus: int,
        gpus: float,
        restarts: int,
    ) -> None:
        """Start the workers in a thread, and return at once.

        Args:
            name: Name of the run on Ray's dashboard.
            setup: Object reference, in a list, to the config, images and labels.
            workers: Number of workers that train together.
            cpus: CPUs of each worker.
            gpus: GPUs of each worker.
            restarts: Number of times that the workers may be restarted after one has died.
        """
        event_log = ray.get_runtime_context().current_actor
        loop = functools.partial(pretrain, event_log, setup)
        report_death = functools.partial(_report_death, event_log)

        def run() -> None:
            reason = None
            try:
                run_workers(name, loop, workers, cpus, gpus, restarts, report_death)
            except Exception as error:
                reason = describe_failure(error)
            self.put(WorkersEnded(reason))

        threading.Thread(target=run, daemon=True).start()


def _report_death(event_log: ActorHandle[Any], cause: str) -> None:
    event_log.put.remote(WorkerDied(cause))


def pretraining_events(
    name: str,
    setup: PretrainingSetup,
    checkpoint: bytes | None,
    workers: int,
    cpus: int,
    gpus: float,
    restarts: int,
) -> Iterator[Event]:
    """Run a pretraining on Ray, and yield the events of its workers as they arrive.

    Args:
        name: Name of the run on Ray's dashboard.
        setup: Config, images and labels.
        checkpoint: Checkpoint of an earlier run to continue; None for a new training.
        workers: Number of workers that train together.
        cpus: CPUs of each worker.
        gpus: GPUs of each worker.
        restarts: Number of times that the workers may be restarted after one has died.

    Raises:
        InputError: If a worker finds an error in the user's config or images.
        TrainingError: If the training cannot continue, or workers died more often than
            ``restarts`` allows.
    """
    remote: Any = ray.remote
    runner = remote(
        num_cpus=0,
        max_concurrency=ACTOR_THREADS,
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        ),
        runtime_env={"env_vars": train_settings(START_MINUTES)},
    )(WorkerRunner).remote(checkpoint)
    shared = [ray.put(setup)]
    started = runner.start.remote(name, shared, workers, cpus, gpus, restarts)
    yield from receive(lambda: ray.get([started, runner.take.remote(TAKE_TIMEOUT_SECONDS)])[1])


def receive(take: Callable[[], Event | None]) -> Iterator[Event]:
    """Yield the events of the workers of a pretraining until the workers have ended.

    The event ``WorkersWaiting`` is yielded in addition if the workers do not start for some time.

    Args:
        take: Function that returns the next event, or None after a timeout.

    Raises:
        InputError: If a worker finds an error in the user's config or images.
        TrainingError: If the training cannot continue, or the actor that runs the workers has died.
    """
    running, timeouts = False, 0
    while True:
        try:
            event = take()
        except RayActorError:
            raise _interrupted("the process that holds the workers was lost") from None
        if isinstance(event, PretrainingFailed):
            raise InputError(event.reason) if event.mistake else TrainingError(event.reason)
        if isinstance(event, WorkersEnded):
            if event.reason is None:
                return
            raise _interrupted(event.reason)
        if isinstance(event, TrainingStarted | WorkerDied):
            running, timeouts = isinstance(event, TrainingStarted), 0
        if event is not None:
            yield event
        elif not running:
            timeouts += 1
            if timeouts == TIMEOUTS_UNTIL_WAITING:
                yield WorkersWaiting()


def _interrupted(reason: str) -> TrainingError:
    return TrainingError(f"{reason}; the same command goes on after the last epoch")
