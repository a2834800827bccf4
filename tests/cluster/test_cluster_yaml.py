"""Tests of the cluster files: Ray's own checks, and each statement in cluster/README.md."""

import copy
import os
import re
import subprocess
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.support.paths import ROOT

FILES = ("gpu", "onprem")
SECRETS = r"AKIA|aws_secret|secret_access|BEGIN [A-Z ]*PRIVATE KEY|password"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())


@pytest.fixture(params=FILES)
def cluster(request) -> dict[str, Any]:
    return read(request.param)


def test_ray_accepts_the_file_without_a_network(cluster):
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_ray_would_refuse_a_misspelled_key(cluster):
    with pytest.raises(Exception, match="head_start_ray_comands"):
        validate_config(prepare_config({**cluster, "head_start_ray_comands": []}))


def test_run_py_on_the_head_finds_the_cluster(cluster):
    assert any("RAY_ADDRESS=auto" in command for command in cluster["head_setup_commands"])
    assert not any("RAY_ADDRESS" in command for command in cluster["setup_commands"])


def test_the_dashboard_listens_on_loopback_and_ray_asks_for_a_token(cluster):
    start = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert any("RAY_AUTH_MODE=token" in command for command in cluster["setup_commands"])
    assert "~/.ray/auth_token" in cluster["file_mounts"]


def test_gloo_uses_the_network_device_of_the_default_route(cluster, tmp_path):
    """Without the setting, gloo may choose a loopback address."""
    command = next(command for command in cluster["setup_commands"] if "GLOO" in command)
    ip = tmp_path / "ip"
    ip.write_text("#!/bin/sh\necho 'default via 192.0.2.1 dev ens5 proto dhcp src 192.0.2.9'\n")
    ip.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for _ in range(2):
        subprocess.run(["sh", "-c", command], env={"HOME": str(tmp_path), "PATH": path}, check=True)
    assert (tmp_path / ".bashrc").read_text() == "export GLOO_SOCKET_IFNAME=ens5\n"


def test_nodes_install_tested_versions_from_files_that_exist(cluster):
    mounts = {to: source for to, source in cluster["file_mounts"].items() if "auth" not in to}
    for to, source in mounts.items():
        assert (ROOT / source).exists()
        assert to == f"~/mtl-sweeps/{source}"
    install = next(command for command in cluster["setup_commands"] if "pip install" in command)
    assert install.endswith("-c ~/mtl-sweeps/constraints.txt -e ~/mtl-sweeps")
    assert {"~/mtl-sweeps/constraints.txt", "~/mtl-sweeps/pyproject.toml"} <= mounts.keys()


def test_every_aws_node_has_its_own_group_and_profile():
    types = read("gpu")["available_node_types"]
    for node in types.values():
        config = node["node_config"]
        # Without these ids Ray creates a security group that is open to all addresses.
        assert config["SecurityGroupIds"]
        assert config["IamInstanceProfile"]["Name"].startswith("mtl-sweeps-")
    assert types["head"]["max_workers"] == 0
    assert "security_group" not in read("gpu")["provider"]


def test_the_number_of_workers_is_bounded_and_idle_ones_stop():
    cluster = read("gpu")
    worker = cluster["available_node_types"]["gpu_worker"]
    assert 0 <= worker["min_workers"] < worker["max_workers"] <= cluster["max_workers"]
    assert 0 < cluster["idle_timeout_minutes"] <= 30


class _Template(yaml.SafeLoader):
    """YAML loader that reads CloudFormation's tags as plain values."""


_Template.add_multi_constructor("!", lambda loader, tag, node: {tag: loader.construct_scalar(node)})


def template() -> dict[str, Any]:
    return yaml.load((ROOT / "cluster" / "access.yaml").read_text(), _Template)


@pytest.mark.parametrize(
    ("cidr", "allowed"),
    [
        ("203.0.113.7/32", True),
        ("10.0.0.0/8", True),
        ("0.0.0.0/0", False),
        ("203.0.113.7", False),
        ("203.0.113.7/33", False),
    ],
)
def test_ssh_is_allowed_only_from_the_given_addresses(cidr, allowed):
    assert (
        bool(re.fullmatch(template()["Parameters"]["SshCidr"]["AllowedPattern"], cidr)) == allowed
    )
    assert "Default" not in template()["Parameters"]["SshCidr"]
    rules = template()["Resources"]["Nodes"]["Properties"]["SecurityGroupIngress"]
    assert [(rule["FromPort"], rule["CidrIp"]) for rule in rules] == [(22, {"Ref": "SshCidr"})]


def test_the_template_defines_the_profiles_of_the_nodes():
    resources = template()["Resources"].values()
    made = {
        resource["Properties"]["InstanceProfileName"]
        for resource in resources
        if resource["Type"] == "AWS::IAM::InstanceProfile"
    }
    nodes = read("gpu")["available_node_types"].values()
    assert made == {node["node_config"]["IamInstanceProfile"]["Name"] for node in nodes}


@pytest.mark.parametrize("file", sorted((ROOT / "cluster").iterdir()), ids=lambda file: file.name)
def test_no_file_holds_a_secret(file):
    assert not re.search(SECRETS, file.read_text(), re.IGNORECASE)


def test_the_image_copies_files_that_exist():
    lines = (ROOT / "cluster" / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY")]
    assert copies
    assert all((ROOT / source).exists() for sources in copies for source in sources)
    assert "RUN pip install --no-cache-dir -c constraints.txt ." in lines
