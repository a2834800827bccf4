"""Capacity of clusters and the choice of a cluster; only one test uses a running one."""

import json

import pytest
import torch
import yaml
from ray.autoscaler._private.util import prepare_config

from mtl.errors import InputError
from sweeps.cluster import capacity, connection
from sweeps.cluster.capacity import AutoscalerLimits, concurrent_trials, this_machine
from sweeps.cluster.connection import LOCAL, choose_address, connect
from sweeps.search_file import ResourcesSection
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("settings", "trials", "nodes", "expected"),
    [
        ({}, 18, [(2, 0)], 2),
        ({}, 18, [(2.9, 0)], 2),
        ({}, 3, [(16, 0)], 3),
        ({"cpus_per_worker": 3}, 18, [(16, 0)], 5),
        # A worker runs on one node: CPUs that are left over on two nodes do not add up.
        ({"cpus_per_worker": 3}, 18, [(16, 0), (5, 0), (2, 0)], 6),
        ({"concurrent_trials": 1}, 18, [(16, 0)], 1),
        # The number asked for is kept with fewer trials: a later run may have more.
        ({"concurrent_trials": 4}, 2, [(16, 0)], 4),
        ({"gpus_per_worker": 1}, 18, [(16, 4), (16, 0)], 4),
        ({"gpus_per_worker": 2}, 18, [(16, 5)], 2),
        ({"gpus_per_worker": 0.25}, 18, [(16, 2)], 8),
        # A fraction is taken from one GPU: 0.4 fits twice on each.
        ({"gpus_per_worker": 0.4}, 18, [(16, 2)], 4),
        ({"gpus_per_worker": 0.25, "cpus_per_worker": 4}, 18, [(16, 2)], 4),
        ({"workers_per_trial": 2}, 18, [(7, 0)], 3),
        ({"workers_per_trial": 3, "cpus_per_worker": 2}, 18, [(16, 0)], 2),
        # A worker runs on one node; the workers of a trial may run on two.
        ({"workers_per_trial": 2, "cpus_per_worker": 3}, 18, [(5, 0), (4, 0)], 1),
        ({"workers_per_trial": 2}, 18, [(3, 0), (3, 0)], 3),
        ({"workers_per_trial": 4, "gpus_per_worker": 1}, 18, [(16, 0), (8, 2), (8, 2), (8, 3)], 1),
        ({"workers_per_trial": 2, "gpus_per_worker": 2, "cpus_per_worker": 4}, 18, [(64, 8)], 2),
        ({"workers_per_trial": 2, "concurrent_trials": 3}, 2, [(6, 0)], 3),
    ],
)
def test_the_number_of_slots_is_what_fits_or_what_is_asked_for(settings, trials, nodes, expected):
    assert concurrent_trials(ResourcesSection(**settings), trials, nodes) == expected


@pytest.mark.parametrize(
    ("settings", "nodes", "named"),
    [
        ({"cpus_per_worker": 4}, [(2, 0)], ("cpus_per_worker = 4", "2 CPUs")),
        ({"cpus_per_worker": 4}, [(3, 0), (3, 0)], ("cpus_per_worker = 4", "3 CPUs")),
        ({"gpus_per_worker": 1}, [(2, 0)], ("gpus_per_worker = 1", "0 GPUs")),
        ({"concurrent_trials": 3}, [(2, 0)], ("concurrent_trials = 3", "2 CPUs")),
        (
            {"workers_per_trial": 3, "gpus_per_worker": 1},
            [(8, 2), (8, 0), (8, 0)],
            (
                "resources.workers_per_trial = 3 x (resources.cpus_per_worker = 1 and "
                "resources.gpus_per_worker = 1)",
                "is more than there is (8 CPUs and 2 GPUs, 2 times 8 CPUs and 0 GPUs)",
            ),
        ),
        (
            {"workers_per_trial": 2, "cpus_per_worker": 3, "concurrent_trials": 2},
            [(10, 0)],
            (
                "resources.concurrent_trials = 2 x resources.workers_per_trial = 2 x "
                "resources.cpus_per_worker = 3 is more than there is (10 CPUs and 0 GPUs)",
            ),
        ),
    ],
)
def test_a_request_that_cannot_fit_is_refused(settings, nodes, named):
    with pytest.raises(InputError) as refused:
        concurrent_trials(ResourcesSection(**settings), 18, nodes)
    assert all(text in str(refused.value) for text in named)
    assert "autoscaler" not in str(refused.value)


HEAD = {"resources": {"CPU": 2, "memory": 7e9}, "max_workers": 0}
LARGE = {"resources": {"CPU": 32}, "max_workers": 2}
GPU = {"resources": {"CPU": 8, "GPU": 1, "accelerator_type:A10G": 1}, "max_workers": 4}


def autoscaler_limits(at_once, **kinds):
    types = {"head": HEAD, **kinds}
    config = {"available_node_types": types, "head_node_type": "head", "max_workers": at_once}
    return AutoscalerLimits.read(config)


@pytest.mark.parametrize(
    ("settings", "most", "expected"),
    [
        ({"gpus_per_worker": 1}, autoscaler_limits(4, gpu=GPU), 4),
        ({"gpus_per_worker": 1}, autoscaler_limits(3, gpu=GPU), 3),
        ({"gpus_per_worker": 0.5}, autoscaler_limits(4, gpu=GPU), 8),
        ({"gpus_per_worker": 1, "workers_per_trial": 3}, autoscaler_limits(4, gpu=GPU), 1),
        ({}, autoscaler_limits(4, gpu=GPU), 2 + 4 * 8),
        # Of the node types, those are counted on which most workers fit.
        ({}, autoscaler_limits(3, gpu=GPU, large=LARGE), 2 + 2 * 32 + 8),
        ({"gpus_per_worker": 1}, autoscaler_limits(3, gpu=GPU, large=LARGE), 3),
        ({"cpus_per_worker": 20}, autoscaler_limits(3, gpu=GPU, large=LARGE), 2),
    ],
)
def test_nodes_that_the_autoscaler_can_start_count(settings, most, expected):
    assert concurrent_trials(ResourcesSection(**settings), 99, [(2, 0), (8, 1)], most) == expected


def test_running_nodes_count_if_they_hold_more():
    """A node that was joined by hand is not among the autoscaler's node types."""
    up = [(2, 0), (48, 0)]
    assert (
        concurrent_trials(
            ResourcesSection(cpus_per_worker=16), 9, up, autoscaler_limits(4, gpu=GPU)
        )
        == 3
    )


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"cpus_per_worker": 9}, "resources.cpus_per_worker = 9"),
        ({"gpus_per_worker": 2}, "resources.gpus_per_worker = 2"),
        ({"gpus_per_worker": 1, "workers_per_trial": 4}, "resources.workers_per_trial = 4"),
        ({"gpus_per_worker": 1, "concurrent_trials": 4}, "resources.concurrent_trials = 4"),
    ],
)
def test_a_request_above_the_autoscalers_limits_is_refused(settings, asked):
    with pytest.raises(InputError) as refused:
        concurrent_trials(
            ResourcesSection(**settings), 18, [(2, 0), (8, 1)], autoscaler_limits(3, gpu=GPU)
        )
    assert asked in str(refused.value)
    assert str(refused.value).endswith(
        " is more than there is (2 CPUs and 0 GPUs, 8 CPUs and 1 GPUs) and than the autoscaler can "
        "bring (2 CPUs and 0 GPUs, and 3 at most of 4 times 8 CPUs and 1 GPUs): lower it"
    )


def test_limits_are_read_from_a_cluster_file_that_ray_up_completed():
    config = prepare_config(yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text()))
    assert AutoscalerLimits.read(config) is None  # without sizes, which Ray asks EC2 for
    for kind in config["available_node_types"].values():
        kind["resources"] = {"CPU": 8}
    config["available_node_types"]["gpu_worker"]["resources"]["GPU"] = 1
    assert AutoscalerLimits.read(config) == AutoscalerLimits(
        head=(8, 0), workers=((8, 1),) * 4, at_once=4
    )


def test_a_cluster_of_local_machines_has_no_limits():
    config = prepare_config(yaml.safe_load((ROOT / "cluster" / "onprem.yaml").read_text()))
    assert AutoscalerLimits.read(config) is None


@pytest.mark.ray
def test_a_joined_cluster_has_its_nodes_and_its_autoscaler(ray_address, tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "AUTOSCALER_CONFIG", tmp_path / "ray_bootstrap_config.yaml")
    with connect(ray_address) as joined:
        assert joined.nodes == (tuple(map(float, this_machine())),)
        assert joined.autoscaler is None
    kinds = {"available_node_types": {"head": HEAD, "gpu": GPU}, "head_node_type": "head"}
    connection.AUTOSCALER_CONFIG.write_text(json.dumps({**kinds, "max_workers": 4}))
    with connect(ray_address) as joined:
        assert joined.autoscaler == autoscaler_limits(4, gpu=GPU)
        assert (
            concurrent_trials(
                ResourcesSection(gpus_per_worker=1), 9, joined.nodes, joined.autoscaler
            )
            > 3
        )


def test_the_address_of_a_ray_client_is_refused():
    with (
        pytest.raises(InputError, match=r"ray://10\.0\.0\.1:10001 is a Ray client's"),
        connect("ray://10.0.0.1:10001"),
    ):
        pass


def test_a_failed_start_of_ray_is_one_sentence(monkeypatch):
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen")

    monkeypatch.setattr("ray.init", init)
    message = r"^Ray did not start \(Exception: The .* timed out during startup\.\): try again$"
    with pytest.raises(InputError, match=message), connect("auto"):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_refused_at_once(address):
    with (
        pytest.raises(InputError, match=r"no Ray cluster answers at .*--address"),
        connect(address),
    ):
        pass


def test_a_given_address_comes_before_the_environment_variable(monkeypatch):
    assert choose_address(None) == LOCAL
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert choose_address(None) == "10.0.0.1:6379"
    assert choose_address("auto") == "auto"


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("6400000 100000", 8)],
)
def test_the_cpu_quota_of_a_container_counts(quota, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(capacity.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert this_machine() == (8, torch.cuda.device_count())
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert this_machine()[0] == expected
