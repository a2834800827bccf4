"""``runs/<name>``: opened for a new sweep, or to go on with the same one."""

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

BEGUN = {LOCK, "environment.json", "environment.json.unfinished", "space.yaml.unfinished"}
"""All that a start that was killed at once may have left."""


def check_run_folder(folder: Path, file: SearchFile, dataset: Dataset) -> bool:
    """Check that a folder is free, or this sweep's own.

    Returns:
        Whether the sweep goes on from an earlier start.

    Raises:
        InputError: If the folder holds another space or another dataset, or no sweep at all.
    """
    if not folder.exists():
        return False
    foreign = not folder.is_dir() or {entry.name for entry in folder.iterdir()} - BEGUN
    if foreign and not _known(folder):
        raise InputError(f"{folder} is not empty and no sweep: take another name, or remove it")
    if not _known(folder):
        return False
    _check_same(folder, file, dataset)
    return True


def open_run_folder(folder: Path, file: SearchFile, dataset: Dataset) -> bool:
    """Check the folder and write ``environment.json``, to which each later start is added, and
    ``space.yaml``, which follows the file (more trials, another budget). The caller holds its lock.

    Returns and raises as ``check_run_folder``.
    """
    resumed = check_run_folder(folder, file, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "environment.json"
    now = environment()
    if resumed:
        known = json.loads(run.read_text())
        start = {key: now[key] for key in ("started", "command", "commit", "diff")}
        write_json(run, {**known, "resumed": [*known.get("resumed", []), start]})
    else:
        # Before space.yaml: a folder with a space has all that is compared.
        write_json(run, {"dataset": dataset.hash, **now})
    write_atomically(folder / "space.yaml", file.to_yaml().encode())
    return resumed


def dataset_of(folder: Path) -> str:
    """The content hash of the dataset that a sweep ran on."""
    file = folder / "environment.json"
    try:
        return str(json.loads(file.read_text())["dataset"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"{file} is missing or damaged: {folder} does not say what data it is on"
        ) from None


def fresh_name(runs: Path, name: str) -> str:
    """The name of a new sweep beside an old one: the first of ``name-2``, ``name-3``, ... in
    ``runs`` that nothing stands under.
    """
    return next(new for k in count(2) if not os.path.lexists(runs / (new := f"{name}-{k}")))


def _known(folder: Path) -> bool:
    return (folder / "space.yaml").exists() and (folder / "environment.json").exists()


def _check_same(folder: Path, file: SearchFile, dataset: Dataset) -> None:
    known_hash = json.loads((folder / "environment.json").read_text())["dataset"]
    known = load(folder / "space.yaml").identity()
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
