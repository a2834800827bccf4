"""What the workers of a pretraining are given; without Ray, which the driver imports later."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from mtl.features.backbones import RANDOM
from mtl.features.face_crops import Images
from mtl.features.weights import digest
from mtl.pretraining.config import MAEConfig, SupervisedConfig
from mtl.pretraining.image_labels import LabelledImages
from mtl.pretraining.objectives import Objective, Reconstruction, Supervision
from mtl.sequences.join import training_prior

Weights = Mapping[str, np.ndarray]
OPERATIONAL: Any = {"picture_epochs": True, "training": {"device": True, "checkpoint_epochs": True}}
"""Of the config: where it runs, what is shown and what is lost by a kill, not what comes out."""


@dataclass(frozen=True)
class PretrainingSetup:
    """What the workers are given.

    Attributes:
        config: The pretraining; its class says which method.
        images: Faces without labels, or those of ``labels``.
        labels: For the supervised method.
        readers: Ray Data's tasks at a time, of each worker.
        reader_cpus: What one holds.
        threads: Torch's, of each worker.
        weights: The backbone's, in place of those of the config.
    """

    config: MAEConfig | SupervisedConfig
    images: Images
    labels: LabelledImages | None
    readers: int
    reader_cpus: float
    threads: int
    weights: Weights | None = None


@dataclass(frozen=True)
class Start:
    """What a pretraining starts from, as its driver knows it: without the model.

    Attributes:
        backbone: Its name.
        size: Side of an image in pixels.
        width: Features.
        batch_norm: Whether the model has one.
        weights: The backbone's by name, unless they are random.
        source: ``random``, or the SHA-256 of these weights.
    """

    backbone: str
    size: int
    width: int
    batch_norm: bool
    weights: Weights | None
    source: str


def make_objective(setup: PretrainingSetup) -> Objective:
    """What a setup's method trains for."""
    objective: Objective
    if isinstance(setup.config, MAEConfig):
        objective = Reconstruction(setup.config)
    else:
        assert setup.labels is not None
        objective = Supervision(setup.config, training_prior(setup.labels.listing()))
    if setup.weights is not None:
        # torch warns of the object store's pages, which nobody can write: they are only copied.
        state = {name: torch.tensor(value) for name, value in setup.weights.items()}
        objective.backbone.load_state_dict(state)
    return objective


def start_of(setup: PretrainingSetup) -> Start:
    """What a setup starts from; InputError where that cannot be had."""
    objective = make_objective(setup)
    backbone = objective.backbone
    state, random = backbone.state_dict(), setup.config.weights == RANDOM
    return Start(
        backbone.name,
        backbone.size,
        backbone.width,
        any(isinstance(module, _BatchNorm) for module in objective.model.modules()),
        None if random else {name: value.numpy() for name, value in state.items()},
        RANDOM if random else f"sha256 {digest(state)}",
    )


def manifest_of(method: str, setup: PretrainingSetup, start: Start) -> dict[str, Any]:
    """What decides the outcome."""
    config = setup.config.model_dump(mode="json", serialize_as_any=True, exclude=OPERATIONAL)
    config["weights"] = start.source
    sha = hashlib.sha256("\n".join(setup.images.files.to_pylist()).encode())
    if setup.labels is not None:
        for part in (setup.labels.values, setup.labels.mask, setup.labels.select):
            sha.update(part.tobytes())
    return {
        "method": method,
        "config": config,
        "images": setup.images.address,
        "number": len(setup.images),
        "sha256": sha.hexdigest(),
    }
