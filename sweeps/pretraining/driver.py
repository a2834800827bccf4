"""A pretraining's driver: holds the group, hears of its epochs, writes what they leave."""

import functools
import threading
from collections.abc import Iterator
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mtl.errors import InputError
from mtl.training import TrainingError
from sweeps.pretraining.record import Event, Failed, Record
from sweeps.pretraining.setup import Setup
from sweeps.pretraining.workers import pretrain
from sweeps.worker_group import run_workers

CALLS = 8
"""Threads of the record: the driver's wait, the workers' words, and those of dead ones."""
LISTEN_SECONDS = 1.0
LEAVE_SECONDS = 5.0


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
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote
    actor = remote(num_cpus=0, max_concurrency=CALLS, scheduling_strategy=here)(Record)
    record = actor.remote(checkpoint)
    loop = functools.partial(pretrain, record, [ray.put(setup)])
    ended: list[str] = []

    def hold() -> None:
        try:
            run_workers(name, loop, workers, cpus, gpus, restarts)
        # SystemExit is Ray's word to a thread that waits while its driver leaves.
        except (Exception, SystemExit) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            ended.append(first)

    group = threading.Thread(target=hold, daemon=True)
    group.start()
    while True:
        alive = group.is_alive()
        event: Event | None = ray.get(record.take.remote(LISTEN_SECONDS))
        if isinstance(event, Failed):
            group.join(LEAVE_SECONDS)
            raise InputError(event.reason) if event.mistake else TrainingError(event.reason)
        if event is not None:
            yield event
        elif not alive:
            break
    if ended:
        raise TrainingError(
            f"the workers died {restarts + 1} times, the last one of: {ended[0]}; the same command "
            "goes on after the last epoch"
        )
