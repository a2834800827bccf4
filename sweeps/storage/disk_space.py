"""Disk space that a sweep's trials use, and the space that is free for them."""

import shutil
from contextlib import suppress
from pathlib import Path

from sweeps.storage.trial_folder import TRIALS

FREE_BYTES = 5 * 10**8
"""Bytes of free disk space below which no more trials start."""


def used_bytes(run_folder: Path) -> int:
    """Return the size of all files of a sweep's trials; the sweep may be running.

    Args:
        run_folder: The sweep's run folder, which need not exist.
    """
    total = 0
    for file in (run_folder / TRIALS).glob("*/**/*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def free_bytes(run_folder: Path) -> int:
    """Return the free disk space that a sweep may fill, which leaves `FREE_BYTES` free.

    Args:
        run_folder: The sweep's run folder. If it does not exist, its nearest parent is taken.
    """
    there = next(path for path in (run_folder, *run_folder.absolute().parents) if path.exists())
    return max(0, shutil.disk_usage(there).free - FREE_BYTES)
