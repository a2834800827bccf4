"""The installed wheel: every program runs from a folder without the source code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.installed_wheel import install_wheel, wheel_environment
from tests.support.paths import ROOT

PROGRAMS = sorted(file.stem for file in (ROOT / "sweeps").glob("[!_]*.py"))
PROGRAM_SECONDS = 120


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the installed packages."""
    return install_wheel(tmp_path_factory.mktemp("wheel"))


def run(target: Path, folder: Path, *arguments: str) -> str:
    """Run Python with the wheel in a folder; return the output of a run without errors."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=wheel_environment(target),
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_programs_are_found() -> None:
    assert {"extract", "pretrain", "run", "score"} <= set(PROGRAMS)


HELP = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = ["program", "--help"]
    try:
        runpy.run_module(f"sweeps.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, name
    else:
        raise AssertionError(f"{name} did not end")
"""
"""Program that runs all programs with ``--help`` in one process, which imports torch once."""


def test_every_program_shows_its_help(target: Path, tmp_path: Path) -> None:
    printed = run(target, tmp_path, "-c", HELP, *PROGRAMS)
    for name in PROGRAMS:
        assert f"usage: {name}.py [-h]" in printed
    assert not list(tmp_path.iterdir())


def test_an_installed_file_is_a_program_too(target: Path, tmp_path: Path) -> None:
    file = target / "sweeps" / "run.py"
    assert "usage: run.py [-h]" in run(target, tmp_path, str(file), "--help")


def test_the_wheel_is_what_is_imported_and_has_no_commit(target: Path, tmp_path: Path) -> None:
    code = """
import json, mtl, sweeps
from sweeps.storage.environment import environment
found = environment()
print(json.dumps([mtl.__file__, sweeps.__file__, found["commit"], found["diff"]]))
"""
    packages = [str(target / name / "__init__.py") for name in ("mtl", "sweeps")]
    assert json.loads(run(target, tmp_path, "-c", code)) == [*packages, None, None]


def test_a_dry_run_plants_the_demo_and_prints_the_plan(target: Path, tmp_path: Path) -> None:
    """The config files are in the wheel: the plan needs them, and the copied search file."""
    shipped = target / "sweeps" / "configs" / "spaces" / "encoders_heads.yaml"
    (tmp_path / "space.yaml").write_bytes(shipped.read_bytes())
    printed = run(target, tmp_path, "-m", "sweeps.run", "--space", "space.yaml", "--dry-run")
    assert "planting the demo dataset in datasets/demo" in printed
    assert "sweep encoders_heads: 48 trials" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["datasets", "space.yaml"]


def test_every_config_file_is_in_the_wheel(target: Path) -> None:
    shipped = ROOT / "sweeps" / "configs"
    files = {file.relative_to(shipped) for file in shipped.rglob("*.*") if file.is_file()}
    installed = target / "sweeps" / "configs"
    assert files == {file.relative_to(installed) for file in installed.rglob("*.*")}
