"""Start of slots: Ray actors that train one trial after another, alone or with DDP workers."""

from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from sweeps.cluster.connection import train_settings
from sweeps.search_file import ResourcesSection
from sweeps.slots.group_slot import GroupSlot
from sweeps.slots.process_slot import ProcessSlot

WORKER_CALLS = 16
"""Number of an actor's threads for calls of its DDP workers.

A living group has three open calls at most; workers that died may leave others open.
"""


def slot_starter(sweep: str, resources: ResourcesSection) -> Callable[[int], ActorHandle[Any]]:
    """Return a function that starts the slot with a given number and returns its Ray actor.

    A slot trains one trial after another, by itself or with DDP workers. It is up once its call
    ``ready`` has returned.

    Args:
        sweep: The sweep's name.
        resources: Resources section of the search file.
    """
    remote: Any = ray.remote
    if resources.workers_per_trial == 1:
        alone = remote(
            num_cpus=resources.cpus_per_worker,
            num_gpus=resources.gpus_per_worker,
            concurrency_groups={"control": 1},
        )(ProcessSlot)
        return lambda number: alone.remote(resources.cpus_per_worker)
    group = remote(
        num_cpus=0,
        concurrency_groups={"control": 1, "workers": WORKER_CALLS},
        runtime_env={"env_vars": train_settings(resources.start_timeout_minutes)},
    )(GroupSlot)
    return lambda number: group.remote(f"{sweep}-slot-{number}", resources)
