"""The project as a wheel, built from the tracked files and installed into a folder of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.paths import ROOT

PACKAGED = ("mtl", "sweeps", "pyproject.toml", "README.md", "LICENSE")
BUILD_SECONDS = 120


def install_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the tracked files and install it.

    Args:
        folder: An empty folder for the copy, the wheel and the installation.

    Returns:
        The folder of the installed packages, for ``PYTHONPATH``.
    """
    source, wheels, target = (folder / name for name in ("source", "wheels", "target"))
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", *PACKAGED],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip("wheel", str(source), "--no-build-isolation", "--wheel-dir", str(wheels))
    (wheel,) = wheels.glob("*.whl")
    pip("install", str(wheel), "--target", str(target))
    return target


def pip(command: str, *arguments: str) -> None:
    """Run pip without network and without dependencies; fail with its output."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    assert done.returncode == 0, done.stderr


def wheel_environment(target: Path) -> Mapping[str, str]:
    """Environment variables of a program that imports the installed wheel, not the checkout."""
    return {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
