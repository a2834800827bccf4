"""A sweep's fused model as one folder that needs nothing of the sweep (``mtl.ensemble``)."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mtl.dataset import Dataset
from mtl.ensemble import parse_export
from mtl.ensemble.folder import Files, pack_export
from mtl.ensemble.manifest import weights_path
from mtl.errors import InputError
from mtl.sequences.join import training_prior
from mtl.tasks import TASKS
from mtl.whole_files import write_folder
from sweeps.data.open_data import open_data
from sweeps.search_file import load
from sweeps.storage.run_folder import dataset_of
from sweeps.storage.trial_folder import TrialFolder

MEMBERS = Path("fusion") / "members.json"
PACKAGES = ("mtl-sweeps", "torch", "numpy")


def export(run_folder: Path, dataset: Dataset, destination: Path) -> None:
    """Write the fused model of ``runs/<name>`` to a folder, whole or not at all.

    Args:
        run_folder: The sweep's.
        dataset: The one that the sweep ran on.
        destination: A folder that does not exist.

    Raises:
        InputError: If it does, if the sweep has fused nothing or ran on other data, or if weights
            of a member are no longer kept.
    """
    check_destination(destination)
    files = collect(run_folder, dataset)
    try:
        write_folder(destination, files)
    except OSError as error:
        raise InputError(f"cannot write {destination} ({error}): choose another folder") from None


def check_destination(destination: Path) -> None:
    """Nothing is exported over what is there."""
    if os.path.lexists(destination):
        raise InputError(f"{destination} exists: export to another folder, or remove it")


def sweep_data(run_folder: Path) -> Dataset:
    """The dataset that a sweep ran on, opened where its ``space.yaml`` says it is."""
    return open_data(load(run_folder / "space.yaml").data)


def collect(run_folder: Path, dataset: Dataset) -> Files:
    """What ``export`` writes, checked; it raises the same."""
    if not (run_folder / MEMBERS).is_file():
        raise InputError(f"{run_folder} holds no fused model: let its sweep come to its end first")
    _check_same_data(run_folder, dataset)
    made = json.loads((run_folder / MEMBERS).read_text())
    trials = run_folder / "trials"
    members = {name: _entry(trials / name, counts) for name, counts in _counts(made).items()}
    used = {feature for entry in members.values() for feature in entry["config"]["features"]}
    features = [name for name in dataset.feature_sets() if name in used]
    plain = {
        "versions": _versions(),
        "dataset": dataset.hash,
        "features": {name: dataset.width(name) for name in features},
        "image_name": dataset.info["image_name"],
        "prior": _prior(dataset),
        "members": members,
        "postprocessing": made["postprocessing"],
        "scores": _scores(run_folder),
    }
    statistics = {name: dataset.statistics(name) for name in features}
    files = pack_export(plain, statistics, _weights(trials, members))
    parse_export(files, run_folder)
    return files


def _check_same_data(run_folder: Path, dataset: Dataset) -> None:
    known = dataset_of(run_folder)
    if dataset.hash != known:
        raise InputError(
            f"{run_folder} is a sweep on other data (content {known[:12]}, {dataset.address} has "
            f"{dataset.hash[:12]}): its statistics are not the model's, give the sweep's own"
        )


def _counts(made: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How much each member counts, by member and task."""
    counts: dict[str, dict[str, float]] = {}
    for task, chosen in made["members"].items():
        for name, count in chosen.items():
            if count:
                counts.setdefault(name, {})[task] = count
    return counts


def _entry(trial: Path, counts: Mapping[str, float]) -> dict[str, Any]:
    """A member as ``model.json`` lists it."""
    epochs = json.loads((trial / "scores.json").read_text())["epochs"]
    return {
        "config": yaml.safe_load((trial / "config.yaml").read_text()),
        "weights": dict(counts),
        "epochs": {task: epochs[task] for task in counts},
    }


def _weights(trials: Path, members: Mapping[str, Mapping[str, Any]]) -> Files:
    """The weights that are needed, by their path in the export."""
    weights: Files = {}
    for name, entry in members.items():
        for epoch in sorted(set(entry["epochs"].values())):
            file = TrialFolder(trials / name).weights_file(epoch)
            if not file.is_file():
                raise _no_longer_kept(name, file)
            weights[weights_path(name, epoch)] = file.read_bytes()
    return weights


def _no_longer_kept(member: str, file: Path) -> InputError:
    config, progress = (file.parents[1] / name for name in ("config.yaml", "progress.csv"))
    epochs = len(progress.read_text().splitlines()) - 1
    return InputError(
        f"{file} is missing, for a sweep keeps the weights of each task's best trials only: train "
        f"member {member} again by the first line of {config}, stop it after epoch {epochs}, and "
        "copy its weights/ here"
    )


def _prior(dataset: Dataset) -> dict[str, list[float]]:
    """What is predicted without features, of each task that has training labels."""
    prior = training_prior(dataset.listing())
    known = {name: prior[task.outputs] for name, task in TASKS.items()}
    return {name: values.tolist() for name, values in known.items() if not np.isnan(values).any()}


def _scores(run_folder: Path) -> dict[str, Any]:
    file = run_folder / "scores.json"
    scores = json.loads(file.read_text()) if file.is_file() else {}
    return {
        part: {row: scores[part][row] for row in ("fused", "fused_raw")}
        for part in ("select", "confirm")
        if scores.get(part)
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from its source alone
        return "unknown"
