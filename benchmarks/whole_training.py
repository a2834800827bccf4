"""A configuration trained in this process, from its first epoch to its predictions."""

import numpy as np
from jaxtyping import Float

from mtl.config import TrialConfig
from mtl.optimisation.distributed import Workers
from mtl.training.inference import TrialData, Weights, predict_best
from mtl.training.trainer import EpochResult, Trainer

Outputs = dict[str, Float[np.ndarray, "N 22"]]


def train(
    config: TrialConfig, data: TrialData, workers: Workers | None = None
) -> tuple[list[EpochResult], Outputs]:
    """Train, then predict with each task's best weights.

    Returns:
        The epochs, and the outputs of each part.
    """
    workers = workers or Workers()
    trainer = Trainer(config, data, workers=workers)
    kept: dict[int, Weights] = {}
    for result in trainer.epochs():
        best = set(result.best_epochs.values())
        if result.epoch in best:
            kept[result.epoch] = trainer.weights()
        kept = {epoch: weights for epoch, weights in kept.items() if epoch in best}
    best_epochs = trainer.history[-1].best_epochs
    return trainer.history, predict_best(config, data, kept, best_epochs, workers)
