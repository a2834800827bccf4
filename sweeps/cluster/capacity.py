"""Workers and slots that fit on a cluster's nodes."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mtl.errors import InputError
from sweeps.search_file import ResourcesSection

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


Node = tuple[float, float]
"""CPUs and GPUs of one."""


@dataclass(frozen=True)
class CanCome:
    """What an autoscaler can have up.

    Attributes:
        head: What is up in any case.
        workers: The others, each type as often as its own limit allows.
        at_once: How many of the others at most.
    """

    head: Node
    workers: tuple[Node, ...]
    at_once: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "CanCome | None":
        """From a cluster's configuration as ``ray up`` completes it; None if it leaves a size open
        (``provider: {type: local}``).
        """
        kinds = config.get("available_node_types", {})
        sized = all("CPU" in k.get("resources", {}) and "max_workers" in k for k in kinds.values())
        if not (kinds and sized and "max_workers" in config):
            return None
        sizes = {
            name: (float(kind["resources"]["CPU"]), float(kind["resources"].get("GPU", 0)))
            for name, kind in kinds.items()
        }
        workers = [size for name, size in sizes.items() for _ in range(kinds[name]["max_workers"])]
        return cls(sizes[config["head_node_type"]], tuple(workers), config["max_workers"])

    def __str__(self) -> str:
        """``1 CPUs and 0 GPUs, and 4 at most of 5 times 8 CPUs and 1 GPUs``."""
        return f"{_listed([self.head])}, and {self.at_once} at most of {_listed(self.workers)}"


def this_machine() -> tuple[int, int]:
    """CPUs and GPUs that this process may use: its affinity and its control group count."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if CPU_QUOTA.exists():
        quota, _, period = CPU_QUOTA.read_text().partition(" ")
        if quota != "max":
            cpus = max(1, min(cpus, int(quota) // int(period)))
    return cpus, torch.cuda.device_count()


def concurrent_trials(
    resources: ResourcesSection,
    trials: int,
    nodes: Sequence[Node],
    can_come: CanCome | None = None,
) -> int:
    """How many slots: as many as fit, or as asked.

    What fits is what fits on the nodes that are up, or on those that an autoscaler can have up, if
    that is more. A worker lies on one node, the workers of a trial perhaps on several.

    Raises:
        InputError: If not even one fits, or more are asked for than fit.
    """
    workers = fitting(resources.cpus_per_worker, resources.gpus_per_worker, nodes, can_come)
    fits = workers // resources.workers_per_trial
    if resources.concurrent_trials == "auto":
        asked, slots = 1, min(fits, trials)
    else:
        asked = slots = resources.concurrent_trials
    if fits < asked:
        have = there_is(nodes, can_come)
        raise InputError(f"{_asked(resources)} is more than {have}: lower it")
    return slots


def fitting(
    cpus: float, gpus: float, nodes: Sequence[Node], can_come: CanCome | None = None
) -> int:
    """How many workers that each hold so much fit, as ``concurrent_trials`` counts."""
    workers = sum(_fit(cpus, gpus, node) for node in nodes)
    if can_come:
        most = sorted((_fit(cpus, gpus, node) for node in can_come.workers), reverse=True)
        most = [_fit(cpus, gpus, can_come.head), *most[: can_come.at_once]]
        workers = max(workers, sum(most))
    return workers


def there_is(nodes: Sequence[Node], can_come: CanCome | None = None) -> str:
    """``there is (4 times 8 CPUs and 1 GPUs)``."""
    brings = f" and than the autoscaler can bring ({can_come})" if can_come else ""
    return f"there is ({_listed(nodes)}){brings}"


def _fit(cpus_each: float, share: float, node: Node) -> int:
    """How many workers fit on a node."""
    cpus, gpus = node
    fits = int(cpus // cpus_each)
    if not share:
        return fits
    # A share of a GPU lies on one GPU: three of 0.4 do not fit on one and a bit.
    return min(fits, int(gpus // share) if share >= 1 else int(gpus) * int(1 / share))


def _asked(resources: ResourcesSection) -> str:
    """``resources.workers_per_trial = 2 x resources.cpus_per_worker = 4``."""
    worker = f"resources.cpus_per_worker = {resources.cpus_per_worker}"
    if resources.gpus_per_worker:
        worker = f"({worker} and resources.gpus_per_worker = {resources.gpus_per_worker:g})"
    named = {key: getattr(resources, key) for key in ("concurrent_trials", "workers_per_trial")}
    many = [
        f"resources.{key} = {value}" for key, value in named.items() if value not in ("auto", 1)
    ]
    return " x ".join([*many, worker])


def _listed(nodes: Sequence[Node]) -> str:
    """``1 CPUs and 0 GPUs, 4 times 8 CPUs and 1 GPUs``."""
    return ", ".join(
        f"{f'{number} times ' if number > 1 else ''}{cpus:g} CPUs and {gpus:g} GPUs"
        for (cpus, gpus), number in Counter(nodes).items()
    )
