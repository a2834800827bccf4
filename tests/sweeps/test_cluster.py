"""What fits on a cluster, and which cluster: nothing here starts one."""

import pytest
import torch

from mtl.errors import InputError
from sweeps import cluster
from sweeps.cluster import LOCAL, choose_address, concurrent_trials, connect, this_machine
from sweeps.search_file import Resources


@pytest.mark.parametrize(
    ("settings", "trials", "nodes", "expected"),
    [
        ({}, 18, [(2, 0)], 2),
        ({}, 18, [(2.9, 0)], 2),
        ({}, 3, [(16, 0)], 3),
        ({"cpus_per_worker": 3}, 18, [(16, 0)], 5),
        # A trial lies on one node: what is left over on two does not add up to one.
        ({"cpus_per_worker": 3}, 18, [(16, 0), (5, 0), (2, 0)], 6),
        ({"concurrent_trials": 1}, 18, [(16, 0)], 1),
        # As asked, also where there are fewer trials: another run may have more.
        ({"concurrent_trials": 4}, 2, [(16, 0)], 4),
        ({"gpus_per_worker": 1}, 18, [(16, 4), (16, 0)], 4),
        ({"gpus_per_worker": 2}, 18, [(16, 5)], 2),
        ({"gpus_per_worker": 0.25}, 18, [(16, 2)], 8),
        # Nor does a share span two GPUs: one of 0.4 fits twice on each.
        ({"gpus_per_worker": 0.4}, 18, [(16, 2)], 4),
        ({"gpus_per_worker": 0.25, "cpus_per_worker": 4}, 18, [(16, 2)], 4),
    ],
)
def test_as_many_trials_as_fit_or_as_asked(settings, trials, nodes, expected):
    assert concurrent_trials(Resources(**settings), trials, nodes) == expected


@pytest.mark.parametrize(
    ("settings", "nodes", "named"),
    [
        ({"cpus_per_worker": 4}, [(2, 0)], ("cpus_per_worker = 4", "2 CPUs")),
        ({"cpus_per_worker": 4}, [(3, 0), (3, 0)], ("cpus_per_worker = 4", "3 CPUs")),
        ({"gpus_per_worker": 1}, [(2, 0)], ("gpus_per_worker = 1", "0 GPUs")),
        ({"concurrent_trials": 3}, [(2, 0)], ("concurrent_trials = 3", "2 CPUs")),
    ],
)
def test_what_can_never_fit_is_refused(settings, nodes, named):
    with pytest.raises(InputError) as refused:
        concurrent_trials(Resources(**settings), 18, nodes)
    assert all(text in str(refused.value) for text in named)


def test_a_clients_address_is_refused():
    with (
        pytest.raises(InputError, match=r"ray://10\.0\.0\.1:10001 is a client's"),
        connect("ray://10.0.0.1:10001"),
    ):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "127.0.0.1:99999"])
def test_an_address_where_nobody_answers_is_refused_at_once(address):
    with (
        pytest.raises(InputError, match=r"no Ray cluster answers at .*--address"),
        connect(address),
    ):
        pass


def test_the_address_given_comes_before_the_environments(monkeypatch):
    assert choose_address(None) == LOCAL
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert choose_address(None) == "10.0.0.1:6379"
    assert choose_address("auto") == "auto"


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("6400000 100000", 8)],
)
def test_a_containers_share_of_cpus_counts(quota, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(cluster.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert this_machine() == (8, torch.cuda.device_count())
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert this_machine()[0] == expected
