"""Reading and writing of an exported ensemble's files (JSON and safetensors), strictly checked."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from safetensors.torch import load as load_weights

from mtl.build_model import build_model
from mtl.config import TrialConfig, read_config
from mtl.ensemble.manifest import (
    FORMAT,
    MODEL,
    STATISTICS,
    Manifest,
    PostprocessingEntry,
    damaged,
    read_manifest,
    weights_path,
)
from mtl.errors import InputError
from mtl.predictions.postprocess import Postprocessing, Smoothing
from mtl.strict import did_you_mean
from mtl.tasks import EXPRESSION, OUTPUT_COLUMNS, TASKS, UNITS, Task
from mtl.training.inference import ModelWeights

Files = dict[str, bytes]
"""Content of the files of an exported ensemble, by their path below the folder of the export."""
Statistics = tuple[Float32[np.ndarray, " F"], Float32[np.ndarray, " F"]]
"""Means, then standard deviations, of the features of one set over the training frames."""


@dataclass(frozen=True)
class Member:
    """One trained model of an ensemble.

    Attributes:
        config: Config of the trial that trained the model.
        tasks: Names of the tasks that the model was trained on.
        fusion_weights: Weight of the model's outputs in the ensemble's mean, by task; tasks that
            the ensemble does not take from this model are absent.
        epochs: Epoch after which the weights of the model are used, by task; the tasks are those
            of ``fusion_weights``.
        weights: State dict of the model after each of the ``epochs``, by epoch.
    """

    config: TrialConfig
    tasks: tuple[str, ...]
    fusion_weights: Mapping[str, float]
    epochs: Mapping[str, int]
    weights: Mapping[int, ModelWeights]


@dataclass(frozen=True)
class Export:
    """Checked content of an exported ensemble, which is a folder of files.

    Attributes:
        manifest: Content of ``model.json``.
        statistics: Mean and standard deviation of each feature over the training frames, by the
            name of the feature set.
        prior: The 22 outputs for a frame of a video without features; NaN for tasks without any
            training label.
        members: Members of the ensemble by name.
        postprocessing: Post-processing of the members' mean outputs.
    """

    manifest: Manifest
    statistics: Mapping[str, Statistics]
    prior: Float32[np.ndarray, "22"]
    members: Mapping[str, Member]
    postprocessing: Postprocessing


def pack_export(
    plain: Mapping[str, Any], statistics: Mapping[str, Statistics], weights: Files
) -> Files:
    """Return the contents of the files of a new export, by their path below its folder.

    Args:
        plain: Content of ``model.json`` as plain data, without the keys ``format`` and ``files``.
        statistics: Mean and standard deviation of each feature over the training frames, by the
            name of the feature set.
        weights: Files of weights in safetensors format, by their path below the folder.
    """
    arrays = {
        f"{name}.{key}": value
        for name, pair in statistics.items()
        for key, value in zip(("mean", "std"), pair, strict=True)
    }
    files = {STATISTICS: save_arrays(arrays), **weights}
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    manifest = {"format": FORMAT, **plain, "files": digests}
    return {MODEL: (json.dumps(manifest, indent=1) + "\n").encode(), **files}


def read_files(folder: str | Path) -> Files:
    """Read ``model.json`` in the folder of an exported ensemble and all files that it names.

    Args:
        folder: Folder of the export.

    Returns:
        Content of the files, by their path below the folder.

    Raises:
        InputError: The folder is no export, is damaged or has another format version.
    """
    folder = Path(folder)
    if not (folder / MODEL).is_file():
        raise InputError(f"{folder} is no exported model: it has no {MODEL}")
    try:
        files = {MODEL: (folder / MODEL).read_bytes()}
        for path in read_manifest(files[MODEL], folder).paths():
            files[path] = (folder / path).read_bytes()
    except OSError as error:
        raise damaged(folder, f"{error.filename}: {error.strerror}") from None
    return files


def parse_export(files: Files, where: str | Path) -> Export:
    """Check the files of an exported ensemble and return their content.

    Args:
        files: Content of the files, by their path below the folder of the export.
        where: Folder of the export, for messages.

    Raises:
        InputError: A file has changed since the export, or its content is invalid.
    """
    manifest = read_manifest(files[MODEL], where)
    for path, digest in manifest.files.items():
        if hashlib.sha256(files[path]).hexdigest() != digest:
            raise damaged(where, f"{path} has changed since it was exported")
    try:
        return Export(
            manifest,
            _statistics(manifest, files[STATISTICS]),
            _prior(manifest),
            {name: _member(name, manifest, files) for name in manifest.members},
            _postprocessing(manifest.postprocessing),
        )
    except InputError as error:
        raise InputError(f"{Path(where) / MODEL}: {error}") from None
    except SafetensorError as error:
        raise damaged(where, str(error)) from None


def _statistics(manifest: Manifest, content: bytes) -> dict[str, Statistics]:
    arrays = load_arrays(content)
    statistics = {}
    for name, width in manifest.features.items():
        mean, std = (arrays.get(f"{name}.{key}", np.empty(0)) for key in ("mean", "std"))
        for array in (mean, std):
            if array.shape != (width,) or array.dtype != np.float32:
                raise InputError(f"{STATISTICS} does not hold {width} means and stds of {name!r}")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise InputError(f"{STATISTICS}: a mean of {name!r} is not finite, or a std is not > 0")
        statistics[name] = (mean, std)
    return statistics


def _prior(manifest: Manifest) -> Float32[np.ndarray, "22"]:
    prior = np.full(len(OUTPUT_COLUMNS), np.nan, np.float32)
    for name, values in manifest.prior.items():
        task = _task(name, "prior")
        if len(values) != task.width:
            raise InputError(f"prior.{name} has {len(values)} numbers; it must have {task.width}")
        prior[task.outputs] = values
    return prior


def _task(name: str, where: str) -> Task:
    if name not in TASKS:
        raise InputError(f"{where}: {name!r} is unknown{did_you_mean(name, TASKS)}")
    return TASKS[name]


def _member(name: str, manifest: Manifest, files: Files) -> Member:
    entry = manifest.members[name]
    where = f"members.{name}"
    try:
        config = read_config(entry.config)
    except InputError as error:
        raise InputError(f"{where}.config: {error}") from None
    tasks = tuple(task for task in config.tasks if task in manifest.prior)
    if entry.epochs.keys() != entry.weights.keys() or not entry.epochs.keys() <= set(tasks):
        raise InputError(f"{where}: weights and epochs must name the same trained tasks")
    for features in config.features:
        if features not in manifest.features:
            raise InputError(
                f"{where}.config.features: {features!r} is unknown"
                f"{did_you_mean(features, manifest.features)}"
            )
    with torch.device("meta"):
        width = sum(manifest.features[features] for features in config.features)
        expected = build_model(config, width, tasks).state_dict()
    weights = {}
    for epoch in sorted(set(entry.epochs.values())):
        path = weights_path(name, epoch)
        weights[epoch] = load_weights(files[path])
        if _shapes(weights[epoch]) != _shapes(expected):
            raise InputError(f"{path} holds the weights of another model than {where}.config")
    return Member(config, tasks, entry.weights, entry.epochs, weights)


def _shapes(weights: ModelWeights) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def _postprocessing(entry: PostprocessingEntry) -> Postprocessing:
    for name, values, task in (
        ("bias", entry.bias, EXPRESSION),
        ("thresholds", entry.thresholds, UNITS),
    ):
        if len(values) not in (0, task.width):
            raise InputError(f"postprocessing.{name} has {len(values)} numbers, not {task.width}")
    smoothing = {
        _task(name, "postprocessing.smoothing").name: Smoothing(each.kind, each.width_frames)
        for name, each in entry.smoothing.items()
    }
    return Postprocessing(smoothing, entry.bias, entry.thresholds)
