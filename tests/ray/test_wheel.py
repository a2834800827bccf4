"""Test of a small sweep with the installed wheel, in a folder without the source code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.installed_wheel import install_wheel, wheel_environment
from tests.support.small_sweeps import START_SECONDS, scores, space_file

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WORKERS_IMPORT = """
import sys
from sweeps.cluster.connection import connect

with connect(sys.argv[1]):
    import ray

    @ray.remote
    def imported():
        import mtl, sweeps
        return [mtl.__file__, sweeps.__file__]

    print(*ray.get(imported.remote()))
"""


def run(target: Path, folder: Path, *arguments: str) -> str:
    """Run Python with the wheel, also in the workers of the cluster, and return the output."""
    environment = wheel_environment(target)
    job = {"runtime_env": {"env_vars": {"PYTHONPATH": str(target)}}}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**environment, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_a_sweep_of_the_wheel_ends_with_its_files(planted, ray_address, tmp_path):
    target = install_wheel(tmp_path / "wheel")
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    packages = [str(target / name / "__init__.py") for name in ("mtl", "sweeps")]
    printed = run(target, folder, "-c", WORKERS_IMPORT, ray_address)
    assert printed.splitlines()[-1].split() == packages  # Ray may log before it
    data = os.path.relpath(planted.address, folder)
    space_file(folder, data, search={"trials": 2, "seed": 3})
    words = ["--space", "space.yaml", "--address", ray_address]
    printed = run(target, folder, "-m", "sweeps.run", *words)
    sweep = folder / "runs" / "small"
    assert len(list((sweep / "trials").iterdir())) == 2, printed
    assert scores(sweep)["members"]
    assert (sweep / "submission.txt").exists()
    environment = json.loads((sweep / "environment.json").read_text())
    assert (environment["commit"], environment["diff"]) == (None, None)
