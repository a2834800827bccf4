"""``runs/<name>``: opened for a new sweep, or to go on with the same one."""

import json
from pathlib import Path

from mtl.dataset import Dataset
from mtl.errors import InputError
from sweeps.environment import environment
from sweeps.search_file import SearchFile, load
from sweeps.whole_files import write_json, write_whole

BEGUN = {"environment.json", "environment.json.unfinished", "space.yaml.unfinished"}
"""All that a start that was killed at once may have left."""


def open_run_folder(folder: Path, file: SearchFile, dataset: Dataset) -> bool:
    """Make the folder, or check that it is this sweep's. Nothing in it is overwritten but
    ``space.yaml``, which follows the file (more trials, another budget).

    Returns:
        Whether the sweep goes on from an earlier start.

    Raises:
        InputError: If the folder holds another space or another dataset, or no sweep at all.
    """
    space, run = folder / "space.yaml", folder / "environment.json"
    resumed = space.exists()
    if resumed:
        _check_same(folder, file, dataset, json.loads(run.read_text())["dataset"])
    elif folder.exists() and {file.name for file in folder.iterdir()} - BEGUN:
        raise InputError(f"{folder} is not empty and no sweep: take another name, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    if not resumed:
        # Before space.yaml: a folder with a space has all that is compared.
        write_json(run, {"dataset": dataset.hash, **environment()})
    write_whole(space, file.to_yaml().encode())
    return resumed


def _check_same(folder: Path, file: SearchFile, dataset: Dataset, known_hash: str) -> None:
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
