"""Number of workers, and of trials at the same time, that fit on the nodes of a Ray cluster."""

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
"""File with the CPU quota of this process's control group (cgroup v2)."""

Node = tuple[float, float]
"""Number of CPUs and number of GPUs of one node, in this order."""


@dataclass(frozen=True)
class AutoscalerLimits:
    """Nodes that Ray's autoscaler can start, and their largest number.

    Attributes:
        head: CPUs and GPUs of the head node, which always runs.
        workers: CPUs and GPUs of every other node that the autoscaler can start. A node type of
            which at most 5 nodes may run is in the tuple 5 times.
        at_once: Largest number of nodes, the head node aside, that run at the same time.
    """

    head: Node
    workers: tuple[Node, ...]
    at_once: int

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "AutoscalerLimits | None":
        """Return the limits that the configuration of a Ray cluster gives.

        Args:
            config: Content of the file that ``ray up`` writes on the head node.

        Returns:
            The limits, or None if the configuration lacks the size of a node type, as with
            ``provider: {type: local}``.
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
        """Return the limits as text: the head node, then the number and sizes of the other nodes.

        Example: ``1 CPUs and 0 GPUs, and 4 at most of 5 times 8 CPUs and 1 GPUs``.
        """
        return (
            f"{_describe_nodes([self.head])}, and {self.at_once} at most of "
            f"{_describe_nodes(self.workers)}"
        )


def this_machine() -> tuple[int, int]:
    """Return the number of CPUs and the number of GPUs that this process may use.

    The CPUs are limited by the CPU affinity and by the CPU quota of the control group.
    """
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
    autoscaler: AutoscalerLimits | None = None,
) -> int:
    """Return the number of trials that the sweep trains at the same time.

    This is ``resources.concurrent_trials`` or, for ``auto``, the number of trials that fit on the
    cluster. One worker must fit on one node; the workers of a trial may be on several nodes.

    Args:
        resources: Section ``resources`` of the search file.
        trials: Number of trials of the sweep, the maximum for ``auto``.
        nodes: CPUs and GPUs of each running node.
        autoscaler: Nodes that the cluster's autoscaler can start; None without an autoscaler.

    Raises:
        InputError: If not even one trial fits, or fewer fit than ``resources.concurrent_trials``.
    """
    workers = worker_capacity(
        resources.cpus_per_worker, resources.gpus_per_worker, nodes, autoscaler
    )
    capacity = workers // resources.workers_per_trial
    if resources.concurrent_trials == "auto":
        requested, slots = 1, min(capacity, trials)
    else:
        requested = slots = resources.concurrent_trials
    if capacity < requested:
        available = describe_capacity(nodes, autoscaler)
        raise InputError(f"{_describe_request(resources)} is more than {available}: lower it")
    return slots


def worker_capacity(
    cpus: float,
    gpus: float,
    nodes: Sequence[Node],
    autoscaler: AutoscalerLimits | None = None,
) -> int:
    """Return the number of workers that fit on a cluster.

    Args:
        cpus: CPUs of one worker.
        gpus: GPUs of one worker, which may be a fraction below 1.
        nodes: CPUs and GPUs of each running node.
        autoscaler: Nodes that the cluster's autoscaler can start, used instead of ``nodes`` if more
            workers fit on them; None without an autoscaler.
    """
    workers = sum(_workers_on_node(cpus, gpus, node) for node in nodes)
    if autoscaler:
        on_nodes = (_workers_on_node(cpus, gpus, node) for node in autoscaler.workers)
        best = sorted(on_nodes, reverse=True)[: autoscaler.at_once]
        workers = max(workers, _workers_on_node(cpus, gpus, autoscaler.head) + sum(best))
    return workers


def describe_capacity(nodes: Sequence[Node], autoscaler: AutoscalerLimits | None = None) -> str:
    """Return the cluster's size as text, such as ``there is (4 times 8 CPUs and 1 GPUs)``.

    Args:
        nodes: CPUs and GPUs of each running node.
        autoscaler: Nodes that the cluster's autoscaler can start; None without an autoscaler.
    """
    more = f" and than the autoscaler can bring ({autoscaler})" if autoscaler else ""
    return f"there is ({_describe_nodes(nodes)}){more}"


def _workers_on_node(cpus: float, gpus: float, node: Node) -> int:
    node_cpus, node_gpus = node
    by_cpus = int(node_cpus // cpus)
    if not gpus:
        return by_cpus
    # A fraction of a GPU is taken from a single GPU: each GPU holds two workers of 0.4, not 2.5.
    by_gpus = int(node_gpus // gpus) if gpus >= 1 else int(node_gpus) * int(1 / gpus)
    return min(by_cpus, by_gpus)


def _describe_request(resources: ResourcesSection) -> str:
    """Return the requested resources as text for an error message.

    Example: ``resources.workers_per_trial = 2 x resources.cpus_per_worker = 4``.
    """
    worker = f"resources.cpus_per_worker = {resources.cpus_per_worker}"
    if resources.gpus_per_worker:
        worker = f"({worker} and resources.gpus_per_worker = {resources.gpus_per_worker:g})"
    counts = {key: getattr(resources, key) for key in ("concurrent_trials", "workers_per_trial")}
    factors = [
        f"resources.{key} = {value}" for key, value in counts.items() if value not in ("auto", 1)
    ]
    return " x ".join([*factors, worker])


def _describe_nodes(nodes: Sequence[Node]) -> str:
    """Return nodes as text, such as ``1 CPUs and 0 GPUs, 4 times 8 CPUs and 1 GPUs``."""
    return ", ".join(
        f"{f'{number} times ' if number > 1 else ''}{cpus:g} CPUs and {gpus:g} GPUs"
        for (cpus, gpus), number in Counter(nodes).items()
    )
