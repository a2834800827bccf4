"""Starting a slot of either kind; both have ``ready``, ``train`` and what ``Slot`` has."""

from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from sweeps.cluster.connection import train_settings
from sweeps.search_file import ResourcesSection
from sweeps.slots.group_slot import GroupSlot
from sweeps.slots.process_slot import ProcessSlot

WORKER_CALLS = 16
"""Threads for calls of workers: three of a living group, and those that dead ones left waiting."""


def slot_starter(sweep: str, resources: ResourcesSection) -> Callable[[int], ActorHandle[Any]]:
    """What starts slot k of a sweep; given its setup, it is up once its ``ready`` answers."""
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
