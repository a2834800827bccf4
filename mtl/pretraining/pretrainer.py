"""Pretraining of a backbone, which can be continued from a checkpoint after any epoch.

A batch is divided among all DDP workers and its losses are those of all its images, so any number
of workers trains the same model. Dropout and batch norms are the exception: each worker drops
outputs and normalises by its own images, so models with them depend on the number of workers.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor

from mtl.evaluation import metrics
from mtl.optimisation.distributed import SINGLE_WORKER, Workers
from mtl.optimisation.trainer_core import TrainerCore
from mtl.pretraining.config import PretrainConfig
from mtl.pretraining.objectives import ImageBatch, Objective

REFERENCE_BATCH = 256
"""Images of a batch for which ``optim.base_lr`` is the peak learning rate."""


@dataclass(frozen=True)
class PretrainResult:
    """Result of one epoch of a pretraining.

    Attributes:
        epoch: Number of the epoch, from 1.
        losses: Mean of each loss over the training steps of the epoch, by the loss's name.
        learning_rate: Learning rate of the last step.
        images: Number of images trained on, over all DDP workers.
        seconds: Training time of this worker.
        data_seconds: Part of the training time that this worker waited for images.
        scores: Score of each task on the images by which the best epoch is selected. The score is
            None for a task without a label of these images; ``scores`` itself is None if there are
            no such images.
    """

    epoch: int
    losses: dict[str, float]
    learning_rate: float
    images: int
    seconds: float
    data_seconds: float
    scores: dict[str, float | None] | None = None

    @property
    def score(self) -> float | None:
        """Sum of the tasks' scores, with valence and arousal as one mean; None without scores."""
        return None if self.scores is None else metrics.combine(self.scores)


class Pretrainer(TrainerCore[PretrainResult]):
    """Trainer of one backbone in pretraining.

    Args:
        objective: Model and losses; the model is moved to the device of the config.
        config: Config of the pretraining.
        checkpoint: Checkpoint of an earlier run to continue; None for a new training.
        workers: DDP workers that train the model together.

    Raises:
        TrainingError: If the checkpoint is damaged.
    """

    result_type = PretrainResult
    balancing_key = "beside"
    learning_rate_key = "base_lr"

    def __init__(
        self,
        objective: Objective,
        config: PretrainConfig,
        checkpoint: bytes | None = None,
        workers: Workers = SINGLE_WORKER,
    ) -> None:
        super().__init__(config.optim, config.training, workers)
        self.objective, self.config = objective, config
        self.model = objective.model.to(self.device, self.dtype)
        self.balancing = objective.balancing.to(self.device, self.dtype)
        self.optimizer = torch.optim.AdamW(
            [
                # Biases and norms have no weight decay, as in the reference implementation.
                *param_groups_weight_decay(self.model, config.optim.weight_decay),
                {"params": list(self.balancing.parameters()), "weight_decay": 0.0},
            ],
            lr=config.optim.base_lr,
            betas=config.optim.betas,
            fused=True,
        )
        self.peak_learning_rate = (
            config.optim.base_lr * config.training.batch_images / REFERENCE_BATCH
        )
        self._resume(checkpoint)

    def train_epoch(self, batches: Iterable[ImageBatch], steps: int) -> PretrainResult:
        """Train the next epoch and return its result.

        Args:
            batches: This DDP worker's images of each step, on any device.
            steps: Number of steps.

        Raises:
            TrainingError: If a loss is not finite; raised by all workers at the same step.
        """
        epoch = len(self.learning_curve) + 1
        self._begin_epoch(epoch)
        self.objective.begin_epoch(self._past_losses())
        started = requested = time.perf_counter()
        data_seconds, images, totals = 0.0, 0, torch.zeros((), device=self.device)
        names: list[str] = []
        for step, batch in enumerate(batches):
            placed = {name: part.to(self.device, non_blocking=True) for name, part in batch.items()}
            data_seconds += time.perf_counter() - requested
            self._set_learning_rate(epoch, step, steps)
            losses = self._step(placed)
            names = list(losses)
            totals = totals + torch.stack(list(losses.values()))
            self._check_finite(names, totals, epoch, step, steps)
            images += len(batch["pixels"])
            requested = time.perf_counter()
        # Kept weights are rank 0's, so all workers score with its batch norm statistics.
        self.workers.broadcast_buffers(self.model)
        result = PretrainResult(
            epoch=epoch,
            losses=dict(zip(names, (totals / steps).tolist(), strict=True)),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            images=int(self.workers.all_reduce(np.array([images]))[0]),
            seconds=time.perf_counter() - started,
            data_seconds=data_seconds,
        )
        self.learning_curve.append(result)
        return result

    def add_scores(self, scores: dict[str, float | None]) -> None:
        """Add each task's score to the result of the last epoch."""
        self.learning_curve[-1] = replace(self.learning_curve[-1], scores=scores)

    def should_keep_weights(self, checkpoint_due: bool) -> bool:
        """Return True if the weights of the last epoch replace the weights that are kept so far.

        The kept weights are those of the epoch with the best score. If no epoch has a score, they
        are the weights of the last checkpoint.

        Args:
            checkpoint_due: True if a checkpoint is written after this epoch.
        """
        *earlier, last = [result.score for result in self.learning_curve]
        if last is None:
            return checkpoint_due and all(score is None for score in earlier)
        return all(score is None or last > score for score in earlier)

    def _step(self, batch: ImageBatch) -> dict[str, Tensor]:
        sums = self.workers.sum(self._forward(batch))
        losses = self.objective.losses(sums)
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.backward(losses, sums, self.scaler.scale, self.workers.combine_rows)
        self._optimizer_step()
        return {name: loss.detach() for name, loss in losses.items()}
