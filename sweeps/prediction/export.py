"""Export of a sweep's fused model to a folder that can be used without the run folder."""

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from mtl.dataset import Dataset
from mtl.ensemble import parse_export
from mtl.ensemble.folder import Files, pack_export
from mtl.ensemble.manifest import weights_path
from mtl.errors import InputError
from mtl.sequences.join import training_prior
from mtl.tasks import TASKS
from mtl.whole_files import write_folder
from sweeps.data.open_data import open_data
from sweeps.fusion.fused import MemberWeights
from sweeps.search_file import load
from sweeps.storage.recorded_start import read_start
from sweeps.storage.run_folder import MEMBERS, SPACE
from sweeps.storage.trial_folder import SCORES, TrialFolder

PACKAGES = ("mtl-sweeps", "torch", "numpy")
"""Names of the packages with versions that are recorded in an exported model."""


def export(run_folder: Path, dataset: Dataset, destination: Path) -> None:
    """Write the fused model of a sweep to a folder, completely or not at all.

    Args:
        run_folder: The sweep's run folder.
        dataset: The dataset on which the sweep was trained.
        destination: Path of the new folder.

    Raises:
        InputError: If the destination exists or cannot be written, if the run folder holds no fused
            model, if the sweep was trained on another dataset, or if the weights of a fused trial
            have been removed.
    """
    check_destination(destination)
    files = export_files(run_folder, dataset)
    try:
        write_folder(destination, files)
    except OSError as error:
        raise InputError(f"cannot write {destination} ({error}): choose another folder") from None


def check_destination(destination: Path) -> None:
    """Raise InputError if the folder or file to which a model is to be exported exists already."""
    if os.path.lexists(destination):
        raise InputError(f"{destination} exists: export to another folder, or remove it")


def sweep_data(run_folder: Path) -> Dataset:
    """Open a sweep's dataset, which is named in the run folder's ``space.yaml``; return it."""
    return open_data(load(run_folder / SPACE).data)


def export_files(run_folder: Path, dataset: Dataset) -> Files:
    """Return the files of an exported model, after checking that the model can be loaded.

    Args:
        run_folder: The sweep's run folder.
        dataset: The dataset on which the sweep was trained.

    Returns:
        Content of each file, by its path in the export.

    Raises:
        InputError: If the run folder holds no fused model, if the sweep was trained on another
            dataset, or if the weights of a fused trial have been removed.
    """
    if not (run_folder / MEMBERS).is_file():
        raise InputError(f"{run_folder} holds no fused model: let its sweep end first")
    _check_same_data(run_folder, dataset)
    fused = json.loads((run_folder / MEMBERS).read_text())
    members = {
        signature: _entry(TrialFolder.in_run(run_folder, signature), weights)
        for signature, weights in _weights_by_member(fused["members"]).items()
    }
    used = {feature for entry in members.values() for feature in entry["config"]["features"]}
    features = [name for name in dataset.feature_sets() if name in used]
    plain = {
        "versions": _versions(),
        "dataset": dataset.hash,
        "features": {name: dataset.width(name) for name in features},
        "image_name": dataset.info["image_name"],
        "prior": _prior(dataset),
        "members": members,
        "postprocessing": fused["postprocessing"],
        "scores": _scores(run_folder),
    }
    statistics = {name: dataset.statistics(name) for name in features}
    files = pack_export(plain, statistics, _weights_files(run_folder, members))
    parse_export(files, run_folder)
    return files


def _check_same_data(run_folder: Path, dataset: Dataset) -> None:
    known = read_start(run_folder).dataset
    if dataset.hash != known:
        raise InputError(
            f"{run_folder} is a sweep on other data (content {known[:12]}, {dataset.address} has "
            f"{dataset.hash[:12]}): give the dataset on which the sweep was trained"
        )


def _weights_by_member(members: MemberWeights) -> dict[str, dict[str, float]]:
    """Return the members' (fused trials') weights by signature, then by task, without zeros.

    Args:
        members: The same weights, by task and then by signature.
    """
    by_member: dict[str, dict[str, float]] = {}
    for task, weights in members.items():
        for signature, weight in weights.items():
            if weight:
                by_member.setdefault(signature, {})[task] = weight
    return by_member


def _entry(trial: TrialFolder, member_weights: Mapping[str, float]) -> dict[str, Any]:
    """Return the entry of a fused trial in ``model.json``: config, weights in the mean, epochs.

    Args:
        trial: The trial's folder.
        member_weights: The trial's weight in the mean of each task.
    """
    epochs = trial.scores()["epochs"]
    return {
        "config": trial.config(),
        "weights": dict(member_weights),
        "epochs": {task: epochs[task] for task in member_weights},
    }


def _weights_files(run_folder: Path, members: Mapping[str, Mapping[str, Any]]) -> Files:
    """Return the fused trials' trained weights as bytes, by their path in the exported folder."""
    weights: Files = {}
    for signature, entry in members.items():
        trial = TrialFolder.in_run(run_folder, signature)
        for epoch in sorted(set(entry["epochs"].values())):
            file = trial.weights_file(epoch)
            if not file.is_file():
                raise _no_longer_kept(trial, file)
            weights[weights_path(signature, epoch)] = file.read_bytes()
    return weights


def _no_longer_kept(trial: TrialFolder, file: Path) -> InputError:
    return InputError(
        f"{file} is missing, because a sweep keeps the weights of each task's best trials only: "
        f"train member {trial.signature} again by the first line of {trial.config_file}, stop it "
        f"after epoch {trial.trained_epochs()}, and copy its weights/ here"
    )


def _prior(dataset: Dataset) -> dict[str, list[float]]:
    """Return the outputs predicted for videos without features: training label means, by task."""
    prior = training_prior(dataset.listing())
    known = {name: prior[task.outputs] for name, task in TASKS.items()}
    return {name: values.tolist() for name, values in known.items() if not np.isnan(values).any()}


def _scores(run_folder: Path) -> dict[str, Any]:
    """Return the fused model's scores by split, then post-processed or not, then by name."""
    file = run_folder / SCORES
    scores = json.loads(file.read_text()) if file.is_file() else {}
    return {
        part: {model: scores[part][model] for model in ("fused", "fused_raw")}
        for part in ("select", "confirm")
        if scores.get(part)
    }


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the source is used without being installed
        return "unknown"
