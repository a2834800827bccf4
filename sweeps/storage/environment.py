"""Under what a sweep ran: commit, uncommitted changes, packages, machine, command."""

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


def environment(source: Path = PACKAGE) -> dict[str, Any]:
    """Return the content of ``environment.json``.

    It holds no environment variable, since these may be secret.

    Args:
        source: The folder of the source code. Commit and diff are those of the git checkout that
            tracks it, and None where none does, as for an installed wheel.
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
    """Run git in a folder and return its output; None if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
