"""Pretraining a backbone: one result an epoch, resumable between two.

Workers, all given the same, train the model that one would: a batch is the whole group's, its
losses are those of all its images. But what dropout leaves out and what batch norms normalise by
are each worker's own, so a model that has either trains differently with other numbers of workers.
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
"""Images of the batch that ``optim.base_lr`` is for."""


@dataclass(frozen=True)
class PretrainResult:
    """One epoch.

    Attributes:
        epoch: Counted from 1.
        losses: Means over steps.
        scores: Each task's on the images that the epoch is chosen by, if there are any.
        learning_rate: At the last step.
        images: Seen by all workers.
        seconds: In training, of this worker; ``data_seconds`` of these waited for images.
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
        """The scores' sum, valence and arousal as their mean: the challenge's P."""
        return None if self.scores is None else metrics.combine(self.scores)


class Pretrainer(TrainerCore[PretrainResult]):
    """A backbone in training.

    Args:
        objective: What for; its model is moved to the config's device.
        config: How.
        checkpoint: Where an earlier one left off.
        workers: Those that train it together.
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
                # No decay of biases and norms, as in the reference.
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
        """Train one epoch more.

        Args:
            batches: This worker's part of each step's batch, on any device.
            steps: How many there are.

        Raises:
            TrainingError: If a loss is not finite; on all workers, at the same step.
        """
        epoch = len(self.learning_curve) + 1
        self._begin_epoch(epoch)
        self.objective.begin_epoch(self._past_losses())
        started = asked = time.perf_counter()
        waited, images, totals = 0.0, 0, torch.zeros((), device=self.device)
        names: list[str] = []
        for step, batch in enumerate(batches):
            placed = {name: part.to(self.device, non_blocking=True) for name, part in batch.items()}
            waited += time.perf_counter() - asked
            self._set_learning_rate(epoch, step, steps)
            losses = self._step(placed)
            names = list(losses)
            totals = totals + torch.stack(list(losses.values()))
            self._check_finite(names, totals, epoch, step, steps)
            images += len(batch["pixels"])
            asked = time.perf_counter()
        self.workers.broadcast_buffers(self.model)  # statistics: those of the weights that are kept
        result = PretrainResult(
            epoch=epoch,
            losses=dict(zip(names, (totals / steps).tolist(), strict=True)),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            images=int(self.workers.all_reduce(np.array([images]))[0]),
            seconds=time.perf_counter() - started,
            data_seconds=waited,
        )
        self.learning_curve.append(result)
        return result

    def scored(self, scores: dict[str, float | None]) -> None:
        """What the last epoch scores."""
        self.learning_curve[-1] = replace(self.learning_curve[-1], scores=scores)

    def is_to_keep(self, due: bool) -> bool:
        """Whether the last epoch's weights are the ones to keep: those of the best score so far,
        or, where nothing is scored, of each epoch that is ``due``.
        """
        *before, last = [result.score for result in self.learning_curve]
        if last is None:
            return due and all(score is None for score in before)
        return all(score is None or last > score for score in before)

    def _step(self, batch: ImageBatch) -> dict[str, Tensor]:
        sums = self.workers.sum(self._forward(batch))
        losses = self.objective.losses(sums)
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.backward(losses, sums, self.scaler.scale)
        self._optimizer_step()
        return {name: loss.detach() for name, loss in losses.items()}
