"""The Ray cluster of a sweep: this machine's own, on loopback, or one that runs already."""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mtl.errors import InputError
from sweeps.search_file import Resources

LOCAL = "local"
ANSWER_SECONDS = 5
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Cluster:
    """A connection.

    Attributes:
        dashboard: Its address.
        nodes: CPUs and GPUs of each node.
    """

    dashboard: str
    nodes: tuple[tuple[float, float], ...]


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
    if address == LOCAL:
        # Ray reads this when it is imported: without a cluster, every listener is on 127.0.0.1.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.update({key: os.environ.get(key, value) for key, value in _SETTINGS.items()})
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
    try:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        have = [node["Resources"] for node in nodes if node["Alive"]]
        dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else "none"
        yield Cluster(dashboard, tuple((h.get("CPU", 0.0), h.get("GPU", 0.0)) for h in have))
    finally:
        ray.shutdown()


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
    # A reused actor waits this long for its last trial's thread.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
    # A warning to set this, otherwise.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def concurrent_trials(
    resources: Resources, trials: int, nodes: Sequence[tuple[float, float]]
) -> int:
    """How many slots: as many as fit on the nodes' (CPUs, GPUs), or as asked.

    Raises:
        InputError: If not even one fits, or more are asked for than fit.
    """
    fits = sum(_fit(resources, cpus, gpus) for cpus, gpus in nodes)
    auto = resources.concurrent_trials == "auto"
    asked = 1 if resources.concurrent_trials == "auto" else resources.concurrent_trials
    if fits < asked:
        needs = f"resources.cpus_per_worker = {resources.cpus_per_worker}"
        if resources.gpus_per_worker:
            needs += f" and resources.gpus_per_worker = {resources.gpus_per_worker:g}"
        have = ", ".join(f"{cpus:g} CPUs and {gpus:g} GPUs" for cpus, gpus in nodes)
        many = "" if auto else f"resources.concurrent_trials = {asked} with "
        raise InputError(f"{many}{needs} is more than there is ({have}): lower it")
    return min(fits, trials) if auto else asked


def _fit(resources: Resources, cpus: float, gpus: float) -> int:
    fits = int(cpus // resources.cpus_per_worker)
    share = resources.gpus_per_worker
    if not share:
        return fits
    # A share of a GPU lies on one GPU: three of 0.4 do not fit on one and a bit.
    return min(fits, int(gpus // share) if share >= 1 else int(gpus) * int(1 / share))
