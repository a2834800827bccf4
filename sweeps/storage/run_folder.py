"""Run folder ``runs/<name>`` of a sweep: the names of its files, and its opening at a start."""

import json
import os
from itertools import count
from pathlib import Path

from mtl.dataset import Dataset
from mtl.errors import InputError
from mtl.whole_files import write_atomically, write_json
from sweeps.search_file import SearchFile, load
from sweeps.storage.driver_lock import LOCK
from sweeps.storage.environment import environment
from sweeps.storage.trial_folder import PREDICTIONS

SPACE = "space.yaml"
"""File with the sweep's full search file, which every start writes anew."""
ENVIRONMENT = "environment.json"
"""File with the commit, packages, machine and commands of the sweep, and its dataset's hash."""
SUBMISSION = "submission.txt"
"""File with the decided labels of the test frames, in the challenge's format."""
TRAINING_SECONDS = "training_seconds.json"
"""File with the seconds that the sweep has trained, over all starts."""
REPORT = "report"
"""Folder with the report's pages and tables."""
REFIT = "refit"
"""Folder with the out-of-fold predictions of the fused trials and their scores."""
FUSION = "fusion"
"""Folder with the fused model."""
MEMBERS = f"{FUSION}/members.json"
"""File with the members of the fused model, their weights in the mean and the post-processing."""
FUSED_PREDICTIONS = f"{FUSION}/{PREDICTIONS}"
"""File with the outputs of the fused model for all predicted frames."""
ANALYSIS = f"{FUSION}/analysis.json"
"""File with the score drop without each member and correlation of the members' errors."""
VALIDATION = f"{FUSION}/validation.txt"
"""File with the decided labels of the validation frames in the challenge's format."""

LEFT_BY_KILLED_START = {LOCK, ENVIRONMENT, f"{ENVIRONMENT}.unfinished", f"{SPACE}.unfinished"}
"""Files that a start may leave if it is killed before the folder holds a sweep."""


def check_run_folder(folder: Path, file: SearchFile, dataset: Dataset) -> bool:
    """Check that a folder is free or belongs to this sweep, without changing it.

    Args:
        folder: The sweep's run folder, which need not exist.
        file: The sweep's search file.
        dataset: The sweep's dataset.

    Returns:
        True if the folder holds an earlier start of this sweep, which then goes on.

    Raises:
        InputError: If the folder holds another space or another dataset, or files of no sweep.
    """
    if not folder.exists():
        return False
    if holds_sweep(folder):
        _check_same(folder, file, dataset)
        return True
    if not folder.is_dir() or {entry.name for entry in folder.iterdir()} - LEFT_BY_KILLED_START:
        raise InputError(
            f"{folder} is not empty and holds no sweep: give another name (name=...), or remove it"
        )
    return False


def record_start(folder: Path, file: SearchFile, dataset: Dataset, resumed: bool) -> None:
    """Record a start in a run folder that ``check_run_folder`` accepted.

    The start is added to ``environment.json``, and ``space.yaml`` is written anew, because a later
    start may have more trials or another budget. The caller holds the folder's lock.

    Args:
        folder: The sweep's run folder; made if it does not exist.
        file: The sweep's search file.
        dataset: The sweep's dataset.
        resumed: Result of ``check_run_folder``.

    Raises:
        InputError: If another start has made or removed a sweep in the folder since the check.
    """
    if holds_sweep(folder) != resumed:
        raise InputError(f"{folder} was changed by another start: give the command again")
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / ENVIRONMENT
    now = environment()
    if resumed:
        known = json.loads(run.read_text())
        start = {key: now[key] for key in ("started", "command", "commit", "diff")}
        write_json(run, {**known, "resumed": [*known.get("resumed", []), start]})
    else:
        # Before space.yaml: a folder with a space must have all that a later start compares.
        write_json(run, {"dataset": dataset.hash, **now})
    write_atomically(folder / SPACE, file.to_yaml().encode())


def dataset_hash(folder: Path) -> str:
    """Return the content hash of the dataset on which a sweep was trained.

    Raises:
        InputError: If ``environment.json`` in the run folder cannot be read.
    """
    file = folder / ENVIRONMENT
    try:
        return str(json.loads(file.read_text())["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{file} is missing or damaged, so the dataset of {folder} is unknown: restore the file"
        ) from None


def fresh_name(runs: Path, name: str) -> str:
    """Return the first of ``name-2``, ``name-3``, ... that no file or folder in ``runs`` has."""
    return next(new for k in count(2) if not os.path.lexists(runs / (new := f"{name}-{k}")))


def holds_sweep(folder: Path) -> bool:
    """Return True if a folder holds a sweep that was started before."""
    return (folder / SPACE).exists() and (folder / ENVIRONMENT).exists()


def _check_same(folder: Path, file: SearchFile, dataset: Dataset) -> None:
    """Raise InputError if a run folder holds another space or another dataset."""
    known_hash = json.loads((folder / ENVIRONMENT).read_text())["dataset"]
    known = load(folder / SPACE).identity()
    new = file.identity()
    differ = [key for key in sorted(known.keys() | new.keys()) if known.get(key) != new.get(key)]
    if differ:
        raise InputError(
            f"{folder} holds a sweep with another {' and '.join(differ)}: "
            "give this one another name (name=...), or remove the folder"
        )
    if dataset.hash != known_hash:
        raise InputError(
            f"{folder} holds a sweep on other data (content {known_hash[:12]}, {dataset.address} "
            f"has {dataset.hash[:12]}): give this one another name (name=...)"
        )
