"""Run folder ``runs/<name>`` of a sweep: names of its files, and checks when a sweep starts."""

import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mtl.dataset import Dataset
from mtl.errors import InputError
from mtl.whole_files import write_atomically, write_json
from sweeps.search_file import SearchFile, load
from sweeps.storage.driver_lock import LOCK
from sweeps.storage.environment import environment
from sweeps.storage.recorded_start import ENVIRONMENT, read_start
from sweeps.storage.trial_folder import PREDICTIONS

SPACE = "space.yaml"
"""File with the complete search file (settings and search space); every start rewrites it."""
SUBMISSION = "submission.txt"
"""File with the predicted labels of the test frames, in the challenge's format."""
TRAINING_SECONDS = "training_seconds.json"
"""File with the training time of the sweep in seconds, summed over all starts."""
KEPT_WEIGHTS = "kept_weights.json"
"""File with the number of best trials of each task that keep their weights, if disk is short."""
REPORT = "report"
"""Folder with the report's pages and tables."""
REFIT = "refit"
"""Folder with predictions and scores of the fused trials trained again on folds."""
FUSION = "fusion"
"""Folder with the fused model."""
MEMBERS = f"{FUSION}/members.json"
"""File with the members (trials) of the fused model, their weights and the post-processing."""
FUSED_PREDICTIONS = f"{FUSION}/{PREDICTIONS}"
"""File with the outputs of the fused model for all predicted frames, as Parquet."""
ANALYSIS = f"{FUSION}/analysis.json"
"""File with the score drops without each member (trial), and members' error correlations."""
VALIDATION = f"{FUSION}/validation.txt"
"""File with the predicted labels of the validation frames, in the challenge's format."""

EarlierPoints = Mapping[str, Sequence[Mapping[str, Any]]]
"""Absolute path of an earlier sweep's folder -> points of this space from its best configs."""
LEFT_BY_KILLED_START = {LOCK, ENVIRONMENT, f"{ENVIRONMENT}.unfinished", f"{SPACE}.unfinished"}
"""Files of a start that was killed early; a run folder with nothing else counts as empty."""


def check_run_folder(folder: Path, file: SearchFile, dataset: Dataset) -> bool:
    """Check that a run folder is unused or holds this same sweep; the folder is not changed.

    Args:
        folder: The run folder, which need not exist.
        file: The sweep's search file.
        dataset: The sweep's dataset.

    Returns:
        True if the folder holds this sweep already, so that the sweep is to be resumed.

    Raises:
        InputError: If the folder holds a sweep with another search space or dataset, or one whose
            ``environment.json`` is damaged, or other files.
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


def record_start(
    folder: Path,
    file: SearchFile,
    dataset: Dataset,
    resumed: bool,
    earlier_points: EarlierPoints = MappingProxyType({}),
) -> None:
    """Record the start of a sweep in its run folder, in ``environment.json`` and ``space.yaml``.

    The search file ``space.yaml`` is rewritten also when a sweep is resumed, because the number of
    trials or the budget may have changed. The caller must hold the folder's lock.

    Args:
        folder: The sweep's run folder; made if it does not exist.
        file: The sweep's search file.
        dataset: The sweep's dataset.
        resumed: True if the folder held this sweep already when ``check_run_folder`` was called.
        earlier_points: Points that all starts of this sweep took from earlier sweeps.

    Raises:
        InputError: If another process has made or removed a sweep in the folder since that call.
    """
    if holds_sweep(folder) != resumed:
        raise InputError(f"{folder} was changed by another start: give the command again")
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / ENVIRONMENT
    now = environment()
    first = {"first": dict(earlier_points)} if earlier_points else {}
    if resumed:
        known = read_start(folder)
        start = {key: now[key] for key in ("started", "command", "commit", "diff")}
        kept = known.model_dump(exclude_unset=True)
        write_json(run, {**kept, **first, "resumed": [*known.resumed, start]})
    else:
        # Before space.yaml: a folder with a space must have all that a later start compares.
        write_json(run, {"dataset": dataset.hash, **first, **now})
    write_atomically(folder / SPACE, file.to_yaml().encode())


def recorded_points(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the points that earlier starts of a sweep took from sweeps on other data.

    They are trained first. The absolute path of the earlier sweep's folder is the key; its points
    do not change once they are recorded, although the best trials of a running sweep may.

    Args:
        folder: The sweep's run folder.

    Raises:
        InputError: If ``environment.json`` in the run folder is damaged.
    """
    return {path: points for path, points in read_start(folder).first.items() if points}


def fresh_name(runs: Path, name: str) -> str:
    """Return the first of ``<name>-2``, ``<name>-3``, ... that does not exist in a folder.

    Args:
        runs: Folder of all run folders.
        name: Name to which a number is appended.
    """
    return next(new for k in count(2) if not os.path.lexists(runs / (new := f"{name}-{k}")))


def holds_sweep(folder: Path) -> bool:
    """Return True if a folder is the run folder of a sweep that was started before."""
    return (folder / SPACE).exists() and (folder / ENVIRONMENT).exists()


def _check_same(folder: Path, file: SearchFile, dataset: Dataset) -> None:
    """Raise InputError if a run folder holds a sweep with another search space or dataset."""
    known_hash = read_start(folder).dataset
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
