"""Pretraining a backbone: one result an epoch, resumable between two.

Workers, all given the same, train the model that one would: a batch is the whole group's, its
losses are those of all its images. But what dropout leaves out and what batch norms normalise by
are each worker's own, so a model that has either trains differently with other numbers of workers.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor

from mtl.errors import TrainingError
from mtl.evaluation import metrics
from mtl.optimisation.checkpoint import pack, read_checkpoint
from mtl.optimisation.device import autocast, choose_device, choose_precision, parameter_dtype
from mtl.optimisation.distributed import SINGLE_WORKER, Workers
from mtl.optimisation.step import epoch_seed, follow_gradients, lr_factor
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


class Pretrainer:
    """A backbone in training.

    Args:
        objective: What for; its model is moved to the config's device.
        config: How.
        checkpoint: Where an earlier one left off.
        workers: Those that train it together.
    """

    def __init__(
        self,
        objective: Objective,
        config: PretrainConfig,
        checkpoint: bytes | None = None,
        workers: Workers = SINGLE_WORKER,
    ) -> None:
        self.objective, self.config, self.workers = objective, config, workers
        self.device = choose_device(config.training.device)
        self.precision = choose_precision(config.training.precision, self.device)
        dtype = parameter_dtype(self.precision)
        self.model = objective.model.to(self.device, dtype)
        self.beside = objective.beside.to(self.device, dtype)
        self.optimizer = torch.optim.AdamW(
            [
                # No decay of biases and norms, as in the reference.
                *param_groups_weight_decay(self.model, config.optim.weight_decay),
                {"params": list(self.beside.parameters()), "weight_decay": 0.0},
            ],
            lr=config.optim.base_lr,
            betas=config.optim.betas,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision is torch.float16
        )
        self.history: list[PretrainResult] = []
        if checkpoint is not None:
            self._restore(checkpoint)
        self.ddp_model = workers.wrap(self.model)

    def checkpoint(self) -> bytes:
        """All that a later process needs to go on after the last epoch."""
        return pack(
            {
                "model": self.model.state_dict(),
                "beside": self.beside.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "history": [asdict(result) for result in self.history],
            }
        )

    def _restore(self, checkpoint: bytes) -> None:
        state = read_checkpoint(checkpoint)
        self.model.load_state_dict(state["model"])
        self.beside.load_state_dict(state["beside"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = [PretrainResult(**result) for result in state["history"]]

    def train_epoch(self, batches: Iterable[ImageBatch], steps: int) -> PretrainResult:
        """Train one epoch more.

        Args:
            batches: This worker's part of each step's batch, on any device.
            steps: How many there are.

        Raises:
            TrainingError: If a loss is not finite; on all workers, at the same step.
        """
        epoch = len(self.history) + 1
        torch.manual_seed(epoch_seed(self.config.training.seed, epoch) + self.workers.rank)
        self.model.train()
        self.objective.begin_epoch([result.losses for result in self.history])
        started = asked = time.perf_counter()
        waited, images, totals = 0.0, 0, torch.zeros((), device=self.device)
        names: list[str] = []
        for step, batch in enumerate(batches):
            placed = {name: part.to(self.device, non_blocking=True) for name, part in batch.items()}
            waited += time.perf_counter() - asked
            self._set_learning_rate((epoch - 1) + step / steps, 1 / steps)
            losses = self._step(placed)
            names = list(losses)
            totals = totals + torch.stack(list(losses.values()))
            # On a GPU the look would wait for the step: there it is taken once an epoch.
            if self.device.type == "cpu" or step == steps - 1:
                self._check_finite(names, totals, epoch, step)
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
        self.history.append(result)
        return result

    def scored(self, scores: dict[str, float | None]) -> None:
        """What the last epoch scores."""
        self.history[-1] = replace(self.history[-1], scores=scores)

    def is_to_keep(self, due: bool) -> bool:
        """Whether the last epoch's weights are the ones to keep: those of the best score so far,
        or, where nothing is scored, of each epoch that is ``due``.
        """
        *before, last = [result.score for result in self.history]
        if last is None:
            return due and all(score is None for score in before)
        return all(score is None or last > score for score in before)

    def _step(self, batch: ImageBatch) -> dict[str, Tensor]:
        with autocast(self.device, self.precision):
            parts: Sequence[Tensor] = self.ddp_model(batch)
        sums = self.workers.sum(parts)
        losses = self.objective.losses(sums)
        self.optimizer.zero_grad(set_to_none=True)
        self.objective.backward(losses, sums, self.scaler.scale)
        follow_gradients(
            self.optimizer, self.scaler, self.model.parameters(), self.config.optim.gradient_clip
        )
        return {name: loss.detach() for name, loss in losses.items()}

    def _set_learning_rate(self, progress: float, step: float) -> None:
        optim, training = self.config.optim, self.config.training
        highest = optim.base_lr * training.batch_images / REFERENCE_BATCH
        rate = highest * lr_factor(optim, training.epochs, progress, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _check_finite(self, names: list[str], totals: Tensor, epoch: int, step: int) -> None:
        if not totals.isfinite().all():
            bad = [n for n, v in zip(names, totals.tolist(), strict=True) if v - v != 0]
            raise TrainingError(
                f"the loss of {', '.join(bad)} is not finite at epoch {epoch}, step {step + 1}: "
                f"lower optim.base_lr = {self.config.optim.base_lr:g} or set optim.gradient_clip"
            )
