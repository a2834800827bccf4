"""Setup of a pretraining: config, images, labels and backbone, sent to the workers."""

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

BackboneWeights = Mapping[str, np.ndarray]
"""State dict of a backbone, with NumPy arrays instead of tensors."""
OPERATIONAL: Any = {"picture_epochs": True, "training": {"device": True, "checkpoint_epochs": True}}
"""Config keys that do not change the trained weights, so they are left out of the manifest."""


@dataclass(frozen=True)
class PretrainingSetup:
    """Config, images, labels and resources of a pretraining.

    Attributes:
        config: Config of the pretraining: ``MAEConfig`` for a masked autoencoder, without labels,
            or ``SupervisedConfig``.
        images: Images to train on; if there are labels, the labelled images.
        labels: Labels of the images; None for a masked autoencoder.
        readers: Number of reading tasks that each worker runs at the same time.
        reader_cpus: CPUs of one reading task.
        threads: Torch threads of each worker.
        weights: Initial weights of the backbone; None to load those that the config names.
    """

    config: MAEConfig | SupervisedConfig
    images: Images
    labels: LabelledImages | None
    readers: int
    reader_cpus: float
    threads: int
    weights: BackboneWeights | None = None


@dataclass(frozen=True)
class InitialBackbone:
    """Name, sizes and initial weights of a backbone, without the PyTorch module.

    Attributes:
        name: Name of the backbone.
        size: Side of an input image in pixels.
        width: Number of output features.
        has_batch_norm: True if the trained model (backbone and heads) has a batch norm layer.
        weights: Initial weights; None if they are random.
        weights_id: ``random``, or ``sha256`` and the hash of the initial weights.
    """

    name: str
    size: int
    width: int
    has_batch_norm: bool
    weights: BackboneWeights | None
    weights_id: str


def make_objective(setup: PretrainingSetup) -> Objective:
    """Return the model to train, with its loss; the backbone holds the initial weights.

    Args:
        setup: Config, images and labels of the pretraining.

    Returns:
        ``Reconstruction`` for a masked autoencoder, or ``Supervision`` for training with labels.

    Raises:
        InputError: If the backbone is unknown, or the weights cannot be read or do not fit it.
    """
    objective: Objective
    if isinstance(setup.config, MAEConfig):
        objective = Reconstruction(setup.config)
    else:
        assert setup.labels is not None
        objective = Supervision(setup.config, training_prior(setup.labels.listing()))
    if setup.weights is not None:
        # Copied, because torch warns about the read-only arrays of Ray's object store.
        state = {name: torch.tensor(value) for name, value in setup.weights.items()}
        objective.backbone.load_state_dict(state)
    return objective


def initial_backbone(setup: PretrainingSetup) -> InitialBackbone:
    """Return name, sizes and initial weights of the backbone that is to be pretrained.

    Args:
        setup: Config, images and labels of the pretraining.

    Raises:
        InputError: If the backbone is unknown, or the weights cannot be read or do not fit it.
    """
    objective = make_objective(setup)
    backbone = objective.backbone
    state, random = backbone.state_dict(), setup.config.weights == RANDOM
    return InitialBackbone(
        backbone.name,
        backbone.size,
        backbone.width,
        any(isinstance(module, _BatchNorm) for module in objective.model.modules()),
        None if random else {name: value.numpy() for name, value in state.items()},
        RANDOM if random else f"sha256 {digest(state)}",
    )


def make_manifest(method: str, setup: PretrainingSetup, start: InitialBackbone) -> dict[str, Any]:
    """Return the manifest of a pretraining: everything that the trained weights depend on.

    Args:
        method: ``mae`` or ``supervised``.
        setup: Config, images and labels of the pretraining.
        start: Backbone to train; ``weights_id`` of its initial weights replaces the weights in the
            config.

    Returns:
        ``method``, ``config``, ``images`` (address of the folder), ``number`` (of images) and
        ``sha256`` (hash of the images' paths and labels).
    """
    config = setup.config.model_dump(mode="json", serialize_as_any=True, exclude=OPERATIONAL)
    config["weights"] = start.weights_id
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
