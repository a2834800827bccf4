"""The Ray cluster of a sweep: this machine's own, on loopback, or one that runs already."""

import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mtl.errors import InputError, in_one_line
from sweeps.search_file import Resources

LOCAL = "local"
ANSWER_SECONDS = 5
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""The autoscaler's configuration, where ``ray up`` lays it on the head. Ray itself looks there: of
a cluster of ``ray up``, the GCS knows what is up, not what can come (ray 2.60)."""

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


@dataclass(frozen=True)
class Cluster:
    """A connection.

    Attributes:
        dashboard: Its address.
        nodes: CPUs and GPUs of each node that is up.
        can_come: What its autoscaler can have up, if it has one.
    """

    dashboard: str
    nodes: tuple[Node, ...]
    can_come: CanCome | None = None


def choose_address(address: str | None) -> str:
    """The address given, else ``RAY_ADDRESS``, else this machine."""
    return address or os.environ.get("RAY_ADDRESS") or LOCAL


def this_machine() -> tuple[int, int]:
    """CPUs and GPUs that this process may use: its affinity and its control group count."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if CPU_QUOTA.exists():
        quota, _, period = CPU_QUOTA.read_text().partition(" ")
        if quota != "max":
            cpus = max(1, min(cpus, int(quota) // int(period)))
    return cpus, torch.cuda.device_count()


@contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """Start Ray on this machine (``local``), or join the cluster at ``auto`` or ``host:port``.

    A local cluster listens on loopback only and ends with the sweep; one that ran before runs on.

    Raises:
        InputError: If no cluster answers there, or this machine is no node of it (``ray://``): the
            sweep writes its folder here, and its trials must reach it.
    """
    if address.startswith("ray://"):
        raise InputError(f"--address {address} is a client's: run on a node, with --address auto")
    _check_somebody_answers(address)
    cpus, gpus = this_machine() if address == LOCAL else (None, None)
    settings = {**_SETTINGS, **_ON_LOOPBACK} if address == LOCAL else _SETTINGS
    os.environ.update({key: os.environ.get(key, value) for key, value in settings.items()})
    import ray

    try:
        context = ray.init(
            address=address,
            num_cpus=cpus,
            num_gpus=gpus,
            include_dashboard=True if address == LOCAL else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError, SystemExit) as error:
        # Ray has no error of its own for "nobody there": it even exits.
        first = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"no Ray cluster answers at {address!r} ({first}): start one, or leave --address out"
        ) from None
    except Exception as error:
        # Nor one for its own processes that take too long to come up.
        raise InputError(f"Ray did not start ({in_one_line(error)}): try again") from None
    try:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        have = [node["Resources"] for node in nodes if node["Alive"]]
        dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else "none"
        up = tuple((h.get("CPU", 0.0), h.get("GPU", 0.0)) for h in have)
        yield Cluster(dashboard, up, None if address == LOCAL else _can_come())
    finally:
        ray.shutdown()


def _can_come() -> CanCome | None:
    file = BOOTSTRAP.expanduser()
    return CanCome.read(yaml.safe_load(file.read_text())) if file.exists() else None


def _check_somebody_answers(address: str) -> None:
    """Ray itself asks a ``host:port`` where nobody answers again and again, without end."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at {address!r} ({error}): start one, or leave --address out"
        ) from None


_SETTINGS = {
    # Nothing of a sweep is reported to anybody.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Our own handler ends trials resumably; Tune's would kill them.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The trial's folder is the record: no second one in CSV, JSON and TensorBoard.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # No snapshots of an experiment that is never restored.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    # Else each trial waits until Tune's side of the one before it has started.
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ray lets its workers run at 15, behind everything else on the machine.
    "RAY_worker_niceness": "0",
    # Who holds no GPU sees none: gpus_per_worker: 0 trains on CPUs, also where there are GPUs.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}

_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_ON_LOOPBACK = {
    # Ray reads this when it is imported: without a cluster, its listeners are on 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Left to itself gloo listens on the address of the machine's name, NCCL on its network's.
    "GLOO_SOCKET_IFNAME": _LOOPBACK,
    "NCCL_SOCKET_IFNAME": _LOOPBACK,
    # A Prometheus's, at 2 % of a core; the dashboard's own numbers do not come from it.
    "RAY_enable_metrics_collection": "0",
}


def train_settings(start_timeout_minutes: float) -> dict[str, str]:
    """Ray Train's settings, for the environment of whoever calls ``worker_group.run_workers``."""
    return {
        # The dashboard's Train page lists the group, by its name.
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        # How soon a dead worker is seen and a closed group gone; each look costs 3 ms of CPU.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # A process of its own that a checkpoint after each epoch makes needless.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        # Train would give its place in the queue up and take it again; its driver gives it up.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(start_timeout_minutes * 60),
    }


def concurrent_trials(
    resources: Resources,
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


def _asked(resources: Resources) -> str:
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
