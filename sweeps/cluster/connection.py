"""The Ray cluster of a sweep: this machine's own, on loopback, or one that runs already."""

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
from sweeps.cluster.capacity import CanCome, Node, this_machine

LOCAL = "local"
ANSWER_SECONDS = 5

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""The autoscaler's configuration, where ``ray up`` lays it on the head. Ray itself looks there: of
a cluster of ``ray up``, the GCS knows what is up, not what can come (ray 2.60)."""


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
