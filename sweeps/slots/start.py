"""Starting a slot of either kind; both have ``ready``, ``train`` and what ``Slot`` has."""

from collections.abc import Callable
from typing import Any

import ray
from ray.actor import ActorHandle

from sweeps.search_file import Resources
from sweeps.slots.group import GroupSlot
from sweeps.slots.process import ProcessSlot

WORKER_CALLS = 16
"""Threads for calls of workers: three of a living group, and those that dead ones left waiting."""


def slot_starter(sweep: str, resources: Resources) -> Callable[[int], ActorHandle[Any]]:
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
        runtime_env={"env_vars": _train_settings(resources)},
    )(GroupSlot)
    return lambda number: group.remote(f"{sweep}-slot-{number}", resources)


def _train_settings(resources: Resources) -> dict[str, str]:
    """Environment of Ray Train in a slot."""
    return {
        # The dashboard's Train page lists the group, by its name.
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        # How soon a dead worker is seen and a closed group gone; each look costs 3 ms of CPU.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # A process of its own that a checkpoint after each epoch makes needless.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        # Train would give its place in the queue up and take it again; the sweep gives slots up.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(resources.start_timeout_minutes * 60),
    }
