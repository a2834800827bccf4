"""Training of one configuration without a sweep, from the first epoch to the predictions."""

import numpy as np
from jaxtyping import Float

from mtl.config import TrialConfig
from mtl.optimisation.distributed import Workers
from mtl.training.inference import ModelWeights, TrialData, predict_best
from mtl.training.trainer import EpochResult, Trainer

Outputs = dict[str, Float[np.ndarray, "N 22"]]
"""Dict from each split of the data (select, confirm and test) to outputs for its N frames.

``select`` holds validation videos on which choices are made, ``confirm`` validation videos held
back for the final scores.
"""


def train(
    config: TrialConfig, data: TrialData, workers: Workers | None = None
) -> tuple[list[EpochResult], Outputs]:
    """Train a model, then predict each task with the weights of the task's best epoch.

    The predicted splits are select (validation videos on which choices are made, such as the best
    epochs), confirm (validation videos held back for the final scores) and test.

    Args:
        config: Configuration of the model and its training.
        data: Features and labels of the frames of each split.
        workers: DDP workers that train together; a single one if None.

    Returns:
        Tuple of the results of all epochs, in order, and of a dict from each split's name to the
        model outputs for the split's N frames, (N, 22).
    """
    workers = workers or Workers()
    trainer = Trainer(config, data, workers=workers)
    kept: dict[int, ModelWeights] = {}
    for result in trainer.epochs():
        best = set(result.best_epochs.values())
        if result.epoch in best:
            kept[result.epoch] = trainer.weights()
        kept = {epoch: weights for epoch, weights in kept.items() if epoch in best}
    best_epochs = trainer.learning_curve[-1].best_epochs
    return trainer.learning_curve, predict_best(config, data, kept, best_epochs, workers)
