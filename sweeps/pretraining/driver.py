"""A pretraining's driver: has an actor hold the workers, and hears from it what they do."""

import functools
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtl.errors import InputError
from mtl.training import TrainingError
from sweeps.cluster import train_settings
from sweeps.job import in_one_line
from sweeps.pretraining.record import Ended, Event, Failed, Record
from sweeps.pretraining.setup import Setup
from sweeps.pretraining.workers import pretrain
from sweeps.worker_group import run_workers

CALLS = 8
"""Threads of the actor: the driver's wait, the workers' words, and those of dead ones."""
LISTEN_SECONDS = 5.0
START_MINUTES = 15


class Group(Record):
    """The actor. No thread of the driver waits for the workers: it could not leave."""

    def start(
        self,
        name: str,
        setup: "list[ray.ObjectRef[Setup]]",
        workers: int,
        cpus: int,
        gpus: float,
        restarts: int,
    ) -> None:
        """Start the workers; see ``events``."""
        loop = functools.partial(pretrain, ray.get_runtime_context().current_actor, setup)

        def hold() -> None:
            reason = None
            try:
                run_workers(name, loop, workers, cpus, gpus, restarts)
            except Exception as error:
                reason = in_one_line(error)
            self.put(Ended(reason))

        threading.Thread(target=hold, daemon=True).start()


def events(
    name: str,
    setup: Setup,
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
    ray.get(group.start.remote(name, [ray.put(setup)], workers, cpus, gpus, restarts))
    while True:
        event: Event | None = ray.get(group.take.remote(LISTEN_SECONDS))
        if isinstance(event, Failed):
            raise InputError(event.reason) if event.mistake else TrainingError(event.reason)
        if isinstance(event, Ended):
            if event.reason is None:
                return
            raise TrainingError(
                f"the workers died {restarts + 1} times, the last one of: {event.reason}; the same "
                "command goes on after the last epoch"
            )
        if event is not None:
            yield event
