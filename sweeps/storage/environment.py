"""Facts that are recorded when a program starts: commit, packages, machine and command."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import sweeps

PACKAGE = Path(sweeps.__file__).parent
"""Folder of the package ``sweeps``, part of this project's source code."""


def environment(source: Path = PACKAGE) -> dict[str, Any]:
    """Return commit, packages, machine and command of this start of a program, as a dict.

    The dict is written to ``environment.json``. Environment variables are left out, because they
    may hold secrets.

    Args:
        source: Folder of the source code, in which the git commit is looked up.

    Returns:
        ``started`` (UTC time), ``command``, ``commit``, ``diff`` (uncommitted changes), ``python``
        (version), ``machine`` (system, processor, CPUs, memory) and ``packages`` (version of each).
        ``commit`` and ``diff`` are None if git does not track the source, as in an installed wheel.
    """
    tracked = _git(source, "ls-files", "--error-unmatch", ".") is not None
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": _git(source, "rev-parse", "HEAD") if tracked else None,
        "diff": _git(source, "diff", "HEAD", "--", ":/") if tracked else None,
        "python": platform.python_version(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
            ),
        },
        "packages": {d.metadata["Name"]: d.version for d in sorted(distributions(), key=str)},
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """Run a git command in a folder and return its output, or None if the command fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
