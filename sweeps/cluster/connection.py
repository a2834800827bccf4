"""Connection to a Ray cluster: one started on this machine, or one that already runs."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mtl.errors import InputError, in_one_line
from sweeps.cluster.capacity import AutoscalerLimits, Node, this_machine

LOCAL = "local"
"""Address that stands for a new Ray cluster, started on this machine."""

CONNECT_TIMEOUT_SECONDS = 5
"""Time limit for opening a network connection to the port of a Ray cluster."""

AUTOSCALER_CONFIG = Path("~/ray_bootstrap_config.yaml")
"""File on the head node where ``ray up`` puts the autoscaler's configuration.

Ray reads this file too: its server (GCS) lists the running nodes, but not the node types that the
autoscaler can start (ray 2.60).
"""


@dataclass(frozen=True)
class Cluster:
    """Ray cluster that this process is connected to.

    Attributes:
        dashboard: Web address of Ray's dashboard, or ``none``.
        nodes: CPUs and GPUs of each running node.
        autoscaler: Nodes that the cluster's autoscaler can start; None without an autoscaler.
    """

    dashboard: str
    nodes: tuple[Node, ...]
    autoscaler: AutoscalerLimits | None = None


def choose_address(address: str | None) -> str:
    """Return the address of the Ray cluster to use.

    Args:
        address: Value of ``--address``; with None the environment variable ``RAY_ADDRESS`` is
            used, or ``local`` if the variable is not set.
    """
    return address or os.environ.get("RAY_ADDRESS") or LOCAL


@contextmanager
def connect(address: str) -> Iterator[Cluster]:
    """Connect to a Ray cluster for the duration of a ``with`` block.

    A cluster that is started on this machine listens on the loopback interface only and is stopped
    after the block. A cluster that was running before is not stopped.

    Args:
        address: ``local`` to start Ray on this machine, ``auto`` or ``host:port`` to connect to a
            running cluster.

    Yields:
        The connected cluster.

    Raises:
        InputError: If no cluster answers at the address, if Ray does not start, or if the address
            begins with ``ray://`` (Ray client). The machine of a Ray client is no node of the
            cluster, so the workers could not reach the run folder.
    """
    if address.startswith("ray://"):
        raise InputError(
            f"--address {address} is a Ray client's: run the program on a node of the "
            "cluster, with --address auto"
        )
    _check_port_is_open(address)
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
        # Ray has no single error type for an address without a cluster; it may even exit.
        first = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"no Ray cluster answers at {address!r} ({first}): start one, or leave --address out"
        ) from None
    except Exception as error:
        # Nor for a process of its own that takes too long to start.
        raise InputError(f"Ray did not start ({in_one_line(error)}): try again") from None
    try:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        resources = [node["Resources"] for node in nodes if node["Alive"]]
        dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else "none"
        running = tuple((node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in resources)
        yield Cluster(dashboard, running, None if address == LOCAL else _autoscaler_limits())
    finally:
        ray.shutdown()


def _autoscaler_limits() -> AutoscalerLimits | None:
    file = AUTOSCALER_CONFIG.expanduser()
    return AutoscalerLimits.read(yaml.safe_load(file.read_text())) if file.exists() else None


def _check_port_is_open(address: str) -> None:
    """Raise ``InputError`` if nothing listens at an address ``host:port``.

    Ray would try to connect without end. Other addresses, such as ``auto``, are not checked.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_TIMEOUT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at {address!r} ({error}): start one, or leave --address out"
        ) from None


_SETTINGS = {
    # Usage statistics are not sent.
    "RAY_USAGE_STATS_ENABLED": "0",
    # The sweep's own SIGINT handler ends trials so that they can be resumed; Tune's kills them.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Results are written to the trial folder; Tune would write CSV, JSON and TensorBoard files too.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Seconds between snapshots of the Tune experiment, which is never restored.
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    # With the default, a trial waits until the Tune actor of the one before it has started.
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ray's default is 15: its workers would yield to every other process of the machine.
    "RAY_worker_niceness": "0",
    # A worker without GPUs sees none: gpus_per_worker: 0 trains on CPUs even if there are GPUs.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}

_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_ON_LOOPBACK = {
    # With this, read when Ray is imported, Ray listens on 127.0.0.1 only.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # By default gloo listens on the address of the host name, and NCCL on that of the network.
    "GLOO_SOCKET_IFNAME": _LOOPBACK,
    "NCCL_SOCKET_IFNAME": _LOOPBACK,
    # Metrics for Prometheus take 2 % of a core; the dashboard's own numbers do not need them.
    "RAY_enable_metrics_collection": "0",
}


def train_settings(start_timeout_minutes: float) -> dict[str, str]:
    """Return the settings of Ray Train as environment variables with their values.

    They must be set in a process before it starts a group of DDP workers.

    Args:
        start_timeout_minutes: Longest wait for the CPUs and GPUs of a group.
    """
    return {
        # The Train page of the dashboard lists the group under its name.
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        # Delay until a dead worker is seen or a closed group ends; each check takes 3 ms of CPU.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # The preemption watcher is a process for saving checkpoints; there is one after each epoch.
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
        # A shorter timeout of Train's own would requeue the group before the sweep gives it up.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(start_timeout_minutes * 60),
    }
