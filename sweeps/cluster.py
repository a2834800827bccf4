"""The Ray cluster of a sweep: this machine's own, on loopback, or one that runs already."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from mtl.errors import InputError
from sweeps.search_file import Resources

LOCAL = "local"
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Cluster:
    """A connection.

    Attributes:
        dashboard: Its address.
        cpus: CPUs of the whole cluster; ``gpus`` beside it.
    """

    dashboard: str
    cpus: float
    gpus: float


def choose_address(address: str | None) -> str:
    """The address given, else ``RAY_ADDRESS``, else this machine."""
    return address or os.environ.get("RAY_ADDRESS") or LOCAL


def local_resources() -> tuple[int, int]:
    """CPUs and GPUs that this process may use: its affinity and its control group count."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if CPU_QUOTA.exists():
        quota, _, period = CPU_QUOTA.read_text().partition(" ")
        if quota != "max":
            cpus = max(1, min(cpus, int(quota) // int(period)))
    return cpus, torch.cuda.device_count()


@contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """Start Ray on this machine (``local``), or connect to ``auto``, ``host:port``, ``ray://...``.

    A local cluster listens on loopback only and ends with the sweep; one that ran before runs on.
    """
    cpus, gpus = local_resources() if address == LOCAL else (None, None)
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
    except ConnectionError as error:
        first = str(error).splitlines()[0]
        raise InputError(
            f"no Ray cluster answers at {address!r} ({first}): start one, or leave --address out"
        ) from None
    try:
        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else "none"
        yield Cluster(dashboard, total.get("CPU", 0.0), total.get("GPU", 0.0))
    finally:
        ray.shutdown()


_SETTINGS = {
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


def concurrent_trials(resources: Resources, trials: int, cpus: float, gpus: float) -> int:
    """How many slots: as many as fit, or as asked.

    Raises:
        InputError: If not even one fits, or more are asked for than fit.
    """
    fits = int(cpus // resources.cpus_per_worker)
    have = f"{cpus:g} CPUs"
    needs = f"resources.cpus_per_worker = {resources.cpus_per_worker}"
    if resources.gpus_per_worker:
        per_gpu = resources.gpus_per_worker
        fits = min(fits, int(gpus // per_gpu if per_gpu >= 1 else int(gpus) * int(1 / per_gpu)))
        have += f" and {gpus:g} GPUs"
        needs += f" and resources.gpus_per_worker = {per_gpu:g}"
    asked = 1 if resources.concurrent_trials == "auto" else resources.concurrent_trials
    if fits < asked:
        raise InputError(
            f"{asked} at once with {needs} is more than the {have} there are: lower one of them"
            if asked > 1
            else f"{needs} is more than the {have} there are: lower it"
        )
    return min(fits, trials) if resources.concurrent_trials == "auto" else asked
