"""Disk space that a sweep's trials use, and the space that is free for them."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from sweeps.storage.trial_folder import TRIALS, TrialFolder

FREE_BYTES = 5 * 10**8
"""Bytes of free disk space below which no more trials start."""


def used_bytes(run_folder: Path) -> int:
    """Return the size of all files of a sweep's trials; the sweep may be running.

    Args:
        run_folder: The sweep's run folder, which need not exist.
    """
    return sum(TrialFolder(path).size_bytes() for path in (run_folder / TRIALS).glob("*"))


def growth_bytes(run_folder: Path, largest: Mapping[str, int]) -> int:
    """Return the disk space that the folders of trials may still take while they train.

    Args:
        run_folder: The sweep's run folder.
        largest: Largest size of each trial's folder in bytes, by the trial's signature (hash of
            config and dataset). The files that the folder holds already are taken off.
    """
    trials = {name: TrialFolder.in_run(run_folder, name) for name in largest}
    return sum(max(0, size - trials[name].size_bytes()) for name, size in largest.items())


def free_bytes(run_folder: Path) -> int:
    """Return the free disk space that a sweep may fill, which leaves `FREE_BYTES` free.

    Args:
        run_folder: The sweep's run folder. If it does not exist, its nearest parent is taken.
    """
    there = next(path for path in (run_folder, *run_folder.absolute().parents) if path.exists())
    return max(0, shutil.disk_usage(there).free - FREE_BYTES)
