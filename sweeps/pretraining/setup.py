"""What the workers of a pretraining are given; without Ray, which the driver imports later."""

from dataclasses import dataclass

from mtl.features.config import MAEConfig, SupervisedConfig
from mtl.features.images import Images
from mtl.features.labels import LabelledImages
from mtl.features.objectives import Objective, Reconstruction, Supervision
from mtl.sequences import training_prior


@dataclass(frozen=True)
class Setup:
    """What the workers are given.

    Attributes:
        config: The pretraining; its class says which method.
        images: Faces without labels, or those of ``labels``.
        labels: For the supervised method.
        readers: Ray Data's tasks at a time, of each worker.
        reader_cpus: What one holds.
        threads: Torch's, of each worker.
    """

    config: MAEConfig | SupervisedConfig
    images: Images
    labels: LabelledImages | None
    readers: int
    reader_cpus: float
    threads: int


def make_objective(setup: Setup) -> Objective:
    """What a setup's method trains for."""
    if isinstance(setup.config, MAEConfig):
        return Reconstruction(setup.config)
    assert setup.labels is not None
    return Supervision(setup.config, training_prior(setup.labels.listing()))
