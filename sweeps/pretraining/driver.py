"""A pretraining's driver: has an actor hold the workers, and hears from it what they do."""

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
from sweeps.pretraining.events import Began, Died, Ended, Event, EventLog, Failed, Waiting
from sweeps.pretraining.setup import PretrainingSetup
from sweeps.pretraining.workers import pretrain

CALLS = 8
"""Threads of the actor: the driver's wait, the workers' words, and those of dead ones."""
LISTEN_SECONDS = 5.0
SILENCES = 6
"""So often nothing is heard before it is said that the workers have not begun."""
START_MINUTES = 15


class Group(EventLog):
    """The actor. No thread of the driver waits for the workers: it could not leave."""

    def start(
        self,
        name: str,
        setup: "list[ray.ObjectRef[PretrainingSetup]]",
        workers: int,
        cpus: int,
        gpus: float,
        restarts: int,
    ) -> None:
        """Start the workers; see ``events``."""
        record = ray.get_runtime_context().current_actor
        loop = functools.partial(pretrain, record, setup)
        died = functools.partial(_tell_death, record)

        def hold() -> None:
            reason = None
            try:
                run_workers(name, loop, workers, cpus, gpus, restarts, died)
            except Exception as error:
                reason = describe_failure(error)
            self.put(Ended(reason))

        threading.Thread(target=hold, daemon=True).start()


def _tell_death(record: ActorHandle[Any], cause: str) -> None:
    record.put.remote(Died(cause))


def events(
    name: str,
    setup: PretrainingSetup,
    checkpoint: bytes | None,
    workers: int,
    cpus: int,
    gpus: float,
    restarts: int,
) -> Iterator[Event]:
    """Pretrain, telling what happens as it happens.

    Args:
        name: Of the run, on Ray's dashboard.
        setup: What the workers are given.
        checkpoint: Where an earlier run left off.
        workers: How many train together.
        cpus: What each one holds; ``gpus`` beside it.
        gpus: See there.
        restarts: How often a group whose worker died is started anew.

    Raises:
        InputError: A mistake that only the workers could see.
        TrainingError: The training cannot go on, or workers died once too often.
    """
    remote: Any = ray.remote
    group = remote(
        num_cpus=0,
        max_concurrency=CALLS,
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        ),
        runtime_env={"env_vars": train_settings(START_MINUTES)},
    )(Group).remote(checkpoint)
    shared = [ray.put(setup)]
    started = group.start.remote(name, shared, workers, cpus, gpus, restarts)
    yield from listen(lambda: ray.get([started, group.take.remote(LISTEN_SECONDS)])[1])


def listen(take: Callable[[], Event | None]) -> Iterator[Event]:
    """What is heard, and ``Waiting`` where the workers have not begun for long.

    Args:
        take: The next event, or None after a time of silence.

    Raises:
        InputError: A mistake that only the workers could see.
        TrainingError: The training cannot go on, or its actor is gone.
    """
    up, silences = False, 0
    while True:
        try:
            event = take()
        except RayActorError:
            raise _interrupted("the process that holds the workers was lost") from None
        if isinstance(event, Failed):
            raise InputError(event.reason) if event.mistake else TrainingError(event.reason)
        if isinstance(event, Ended):
            if event.reason is None:
                return
            raise _interrupted(event.reason)
        if isinstance(event, Began | Died):
            up, silences = isinstance(event, Began), 0
        if event is not None:
            yield event
        elif not up:
            silences += 1
            if silences == SILENCES:
                yield Waiting()


def _interrupted(reason: str) -> TrainingError:
    return TrainingError(f"{reason}; the same command goes on after the last epoch")
