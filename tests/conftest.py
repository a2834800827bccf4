"""Fixtures of all tests: a small planted dataset and one Ray cluster."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mtl.dataset import Dataset
from mtl.synthetic import Demo, make_demo
from tests.support.paths import ROOT
from tests.support.requirements import (
    deselect_gpu_tests,
    pytest_make_collect_report,
    pytest_runtest_makereport,
)

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]

# Ray reads these when it is imported: it listens only on this machine, joins no other cluster and
# sends no usage statistics. Programs that tests start inherit the variables.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.pop("RAY_ADDRESS", None)
# By default a process reports its tasks to Ray's dashboard every second, so the last events of a
# killed process are lost, and its death may be reported before them.
os.environ.update(
    RAY_task_events_report_interval_ms="100",
    RAY_gcs_mark_task_failed_on_worker_dead_delay_ms="10000",
)

# Background jobs of a shell ignore SIGINT, so without this line Ctrl-C could not be tested there.
signal.signal(signal.SIGINT, signal.default_int_handler)


CLUSTER = """
import sys
from sweeps.cluster.connection import LOCAL, connect
with connect(LOCAL):
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
"""Program of a cluster that runs until its standard input is closed, at the latest with the tests.

It prints the cluster's address.
"""
CLUSTER_STARTS = 3
"""Number of attempts to start the cluster; Ray fails if its first process needs more than 30 s."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need a GPU where there is none."""
    deselect_gpu_tests(config, items)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Small demo dataset: 16 videos of about 60 frames (8 training, 5 validation, 3 test)."""
    demo = Demo(videos=16, split_shares=(0.5, 0.3, 0.2), mean_frames=60, run_frames=15.0)
    return make_demo(tmp_path_factory.mktemp("planted") / "data", demo=demo)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Address of the cluster of this process's tests, which runs in a separate process."""
    for _ in range(CLUSTER_STARTS):
        with _cluster() as address:
            if address:
                yield address
                return
    pytest.fail("the test cluster did not start")


@contextmanager
def _cluster() -> Iterator[str]:
    """Start a cluster and yield its address, or an empty string if it did not start."""
    holder = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        yield holder.stdout.readline().strip()
    finally:
        holder.stdin.close()
        try:
            holder.wait(60)
        except subprocess.TimeoutExpired:
            holder.kill()
            holder.wait()
        holder.stdout.close()
