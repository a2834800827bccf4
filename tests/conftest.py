"""What tests share: a small planted dataset, one Ray cluster."""

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

# Before Ray is imported: nothing here listens beyond this machine, joins a cluster that is none of
# ours, or reports to anybody. Programs that tests start inherit it.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.pop("RAY_ADDRESS", None)
# What a process did last is on Ray's dashboard a second later; a process that is killed before that
# takes it along, and word of its end may come first.
os.environ.update(
    RAY_task_events_report_interval_ms="100",
    RAY_gcs_mark_task_failed_on_worker_dead_delay_ms="10000",
)

# A shell has what it runs in the background ignore it, and then Ctrl-C could not be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


CLUSTER = """
import sys
from sweeps.cluster.connection import LOCAL, connect
with connect(LOCAL):
    import ray
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
"""A cluster for as long as its standard input is open: it ends with the tests in any case."""
CLUSTER_STARTS = 3
"""Ray gives up when its first process needs over 30 s to come up, as it may on a busy machine."""


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several processes (-n) one of them has the cluster, and all tests that need it."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The demo, small: 16 videos of about 60 frames (8 training, 5 validation, 3 test)."""
    demo = Demo(videos=16, split_shares=(0.5, 0.3, 0.2), mean_frames=60, run_frames=15.0)
    return make_demo(tmp_path_factory.mktemp("planted") / "data", demo=demo)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The session's one cluster, in a process of its own: programs connect to it, and tests."""
    for _ in range(CLUSTER_STARTS):
        with _cluster() as address:
            if address:
                yield address
                return
    pytest.fail("the test cluster did not start")


@contextmanager
def _cluster() -> Iterator[str]:
    """Its address; empty if it did not start."""
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
