"""Training of one trial: a generator that yields one result per epoch."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtl.config import TrialConfig
from mtl.errors import TrainingError
from mtl.evaluation import metrics
from mtl.evaluation.collapse import OutputSpread, is_collapsed
from mtl.losses.balancing import BALANCINGS, Balancing
from mtl.losses.functions import LOSSES, Loss
from mtl.models.frameworks import Framework, Outputs, States, TeacherForcing
from mtl.optimisation.distributed import SINGLE_WORKER, Workers
from mtl.optimisation.trainer_core import TrainerCore, epoch_seed
from mtl.sequences.windows import Batches, Schedule, WindowBatch, carried_schedule, free_schedule
from mtl.strict import Component
from mtl.tasks import TASKS, Task
from mtl.training.inference import ModelWeights, TrialData, place_model, predict

STOP_CHECK_STEPS = 4
"""Number of training steps from one check for a stop request to the next."""


@dataclass(frozen=True)
class EpochResult:
    """Result of one epoch of a trial.

    Attributes:
        epoch: Number of the epoch, from 1.
        losses: Mean training loss of each task.
        scores: Score of each task on ``select`` (validation videos on which choices are made); None
            if the task has no label there.
        best_scores: Best score of each task so far.
        best_epochs: Epoch of each task's best score; the last epoch if the task has no score.
        objective: Sum of the best scores, in which valence and arousal count as one score, their
            mean.
        learning_rate: Learning rate of the last step.
        frames: Training frames of the epoch, over all DDP workers.
        seconds: Training time of this worker.
        data_seconds: Part of ``seconds`` that was spent on making batches.
        output_spread: Standard deviation of each task's outputs on ``select``, divided by that of
            its labels; None if the task has no label there or its labels are constant. Empty in
            results of earlier versions of the program.
        collapsed: For each task with an output spread, True if its outputs are nearly constant
            after this epoch and the one before, both after the warm-up (see
            ``mtl.evaluation.collapse``). Empty in results of earlier versions.
    """

    epoch: int
    losses: dict[str, float]
    scores: dict[str, float | None]
    best_scores: dict[str, float | None]
    best_epochs: dict[str, int]
    objective: float
    learning_rate: float
    frames: int
    seconds: float
    data_seconds: float
    output_spread: dict[str, float | None] = field(default_factory=dict)
    collapsed: dict[str, bool] = field(default_factory=dict)


class Trainer(TrainerCore[EpochResult]):
    """Training of one trial, resumable between two epochs.

    All DDP workers get the same arguments, hold the same model and return the same results, apart
    from times. A checkpoint can be continued by any number of workers.

    Args:
        config: Config of the trial.
        data: Data of the trial.
        checkpoint: Checkpoint of an earlier run to continue; None for a new training.
        workers: DDP workers that train the model together.

    Attributes:
        shared: Parameters that the losses of all tasks depend on.
        losses: Loss function of each task, by the task's name.
        batches: Reader of training windows.

    Raises:
        TrainingError: If the checkpoint is damaged.
    """

    model: Framework
    balancing: Balancing
    result_type = EpochResult
    balancing_key = "balancing"
    learning_rate_key = "lr"

    def __init__(
        self,
        config: TrialConfig,
        data: TrialData,
        checkpoint: bytes | None = None,
        workers: Workers = SINGLE_WORKER,
    ) -> None:
        super().__init__(config.optim, config.training, workers)
        self.config, self.data = config, data
        torch.manual_seed(epoch_seed(config.training.seed, 0))
        self.model = place_model(config, len(data.mean), data.tasks, self.device)
        self.shared = [
            p for part in self.model.shared for p in self.model.get_submodule(part).parameters()
        ]
        balancing = config.balancing
        self.balancing = BALANCINGS[balancing.name](**balancing.parameters).to(self.device)
        self.losses = {task: self._make_loss(task) for task in data.tasks}
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optim.name]
        self.optimizer = optimizer(
            [*self.model.parameters(), *self.balancing.parameters()],
            lr=config.optim.lr,
            weight_decay=config.optim.weight_decay,
            # Torch's loop over parameters takes a tenth of a small step on a CPU.
            fused=True,
        )
        self.batches = Batches(data.train, data.mean, data.std, self.device, self.dtype)
        self.peak_learning_rate = self._peak_learning_rate()
        self._output_spreads = {task: self._make_output_spread(TASKS[task]) for task in data.tasks}
        self._resume(checkpoint)

    def _make_output_spread(self, task: Task) -> OutputSpread:
        """Return the measure of a task's output spread on ``select``.

        It leaves out videos without features, since their outputs are not the model's.
        """
        part = self.data.parts["select"]
        mask = part.mask[:, task.labels] & (part.source >= 0)[:, None]
        return OutputSpread(task, part.labels[:, task.labels], mask)

    def _peak_learning_rate(self) -> float:
        optim = self.config.optim
        if optim.lr_reference_width is None:
            return optim.lr
        hidden: int = self.config.encoder.parameters["hidden"]
        return optim.lr * optim.lr_reference_width / hidden

    def _warmup_epochs(self, steps: int) -> float:
        return self.config.optim.warmup_in_epochs(steps)

    def _make_loss(self, task: str) -> Loss:
        component: Component = getattr(self.config.loss, task)
        prior = torch.from_numpy(self.data.prior[TASKS[task].outputs]).to(self.device, self.dtype)
        loss: Loss = LOSSES[TASKS[task].kind][component.name](prior, **component.parameters)
        return loss

    def weights(self) -> ModelWeights:
        """Return a copy of the model's state dict, on the CPU."""
        return {name: value.cpu().clone() for name, value in self.model.state_dict().items()}

    def epochs(self, should_stop: Callable[[], bool] = lambda: False) -> Iterator[EpochResult]:
        """Train the remaining epochs and yield the result of each.

        Args:
            should_stop: Function that is called every ``STOP_CHECK_STEPS`` steps; if it returns
                True on DDP rank 0, training ends on all workers and the unfinished epoch is
                dropped.

        Raises:
            TrainingError: If a loss or a prediction is not finite, or no ``select`` frame
                (validation frame on which choices are made) has a label of a trained task; raised
                by all workers at the same step.
        """
        for epoch in range(len(self.learning_curve) + 1, self.config.training.epochs + 1):
            trained = self._train_epoch(epoch, should_stop)
            if trained is None:
                return
            scores, output_spread = self._score_select(epoch)
            self.learning_curve.append(self._result(epoch, scores, output_spread, **trained))
            yield self.learning_curve[-1]

    def _result(
        self,
        epoch: int,
        scores: dict[str, float | None],
        output_spread: dict[str, float | None],
        steps: int,
        **trained: Any,
    ) -> EpochResult:
        before = self.learning_curve[-1] if self.learning_curve else None
        best_scores = dict(before.best_scores) if before else dict.fromkeys(scores)
        best_epochs = dict(before.best_epochs) if before else dict.fromkeys(scores, epoch)
        for task, score in scores.items():
            # A task without a label in select keeps its last epoch.
            best = best_scores[task]
            if best is None or (score is not None and score > best):
                best_scores[task], best_epochs[task] = score, epoch
        objective = metrics.combine(best_scores)
        if objective is None:
            raise TrainingError(f"no frame of select has a label of {', '.join(scores)}")
        earlier = before.output_spread if before else {}
        # During the warm-up the outputs of many models have hardly left their first values.
        is_warm = epoch - 1 >= self._warmup_epochs(steps)
        return EpochResult(
            epoch=epoch,
            scores=scores,
            best_scores=best_scores,
            best_epochs=best_epochs,
            objective=objective,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            output_spread=output_spread,
            collapsed={
                task: is_warm and is_collapsed(spread, earlier.get(task))
                for task, spread in output_spread.items()
                if spread is not None
            },
            **trained,
        )

    def _schedule(self, epoch: int) -> Schedule:
        make_schedule = carried_schedule if self.model.carries_state else free_schedule
        lengths = [len(sequence) for sequence in self.data.train]
        random = np.random.default_rng([self.config.training.seed, epoch])
        window = self.config.sequence.window_frames
        return make_schedule(lengths, self.config.optim.batch_videos, window, random)

    def _train_epoch(self, epoch: int, should_stop: Callable[[], bool]) -> dict[str, Any] | None:
        self._begin_epoch(epoch)
        self.balancing.begin_epoch(self._past_losses())
        schedule = self._schedule(epoch)
        started, data_seconds = time.perf_counter(), 0.0
        totals = torch.zeros(len(self.data.tasks), device=self.device, dtype=self.dtype)
        states: States = {}
        for step, windows in enumerate(self.workers.shard(schedule)):
            if step % STOP_CHECK_STEPS == 0 and self.workers.broadcast_flag(should_stop()):
                return None
            requested = time.perf_counter()
            batch = self.batches.cut(windows)
            data_seconds += time.perf_counter() - requested
            self._set_learning_rate(epoch, step, len(schedule))
            losses, states = self._step(batch, states, self._teacher_forcing(batch, epoch, step))
            totals += torch.stack([losses[task] for task in self.data.tasks])
            self._check_finite(self.data.tasks, totals, epoch, step, len(schedule))
        means = (totals / len(schedule)).tolist()
        return {
            "losses": dict(zip(self.data.tasks, means, strict=True)),
            "steps": len(schedule),
            "frames": int(schedule[..., 2].sum()),
            "seconds": time.perf_counter() - started,
            "data_seconds": data_seconds,
        }

    def _teacher_forcing(self, batch: WindowBatch, epoch: int, step: int) -> TeacherForcing | None:
        """Draw the frames of a step at which the model gets labels in place of its own predictions.

        The draw is made for the batch of all DDP workers, so it does not depend on their number.

        Args:
            batch: Windows of this worker in the step.
            epoch: Number of the epoch, from 1.
            step: Number of the step in the epoch, from 0.

        Returns:
            The labels, and a mask that is True for labels that replace predictions; None if the
            model gets no labels in this epoch.
        """
        ratio = self.model.teacher_forcing_ratio(
            (epoch - 1) / max(1, self.config.training.epochs - 1)
        )
        if not ratio:
            return None
        random = np.random.default_rng([self.config.training.seed, epoch, step])
        lanes, frames = batch.valid.shape
        size = (lanes * self.workers.size, self.config.sequence.window_frames)
        drawn = random.random(size)[self.workers.rank :: self.workers.size, :frames] < ratio
        return TeacherForcing(
            batch.labels, batch.mask & torch.from_numpy(drawn).to(self.device)[..., None]
        )

    def _step(
        self, batch: WindowBatch, states: States, teacher_forcing: TeacherForcing | None
    ) -> tuple[dict[str, Tensor], States]:
        outputs, states = self._forward(
            batch.x, batch.valid, states, teacher_forcing, batch.sequence_starts
        )
        losses, labelled = self._losses(outputs, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.balancing.backward(
            losses, labelled, self.shared, self.scaler.scale, self.workers.combine_rows
        )
        self._optimizer_step()
        return {task: loss.detach() for task, loss in losses.items()}, states

    def _losses(
        self, outputs: Outputs, batch: WindowBatch
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return two dicts by task: the loss, and True if the batch has a label of the task.

        Both count the labelled frames in the batches of all DDP workers.
        """
        parts = [
            loss.sums(
                outputs[task].to(batch.labels.dtype).flatten(0, 1),
                batch.labels[:, :, TASKS[task].labels].flatten(0, 1),
                batch.mask[:, :, TASKS[task].labels].flatten(0, 1),
            )
            for task, loss in self.losses.items()
        ]
        sums = dict(zip(self.losses, self.workers.sum(parts), strict=True))
        return (
            {task: loss.value(sums[task]) for task, loss in self.losses.items()},
            {task: loss.has_labels(sums[task]) for task, loss in self.losses.items()},
        )

    def _score_select(self, epoch: int) -> tuple[dict[str, float | None], dict[str, float | None]]:
        """Return the scores and the output spreads on ``select``, two dicts by task.

        Choices are made on these validation videos. A score is None for a task without a label
        there.
        """
        part = self.data.parts["select"]
        outputs = predict(self.model, self.config, self.data, part, self.device, self.workers)
        scores, spreads = {}, {}
        for name in self.data.tasks:
            task = TASKS[name]
            if not np.isfinite(outputs[:, task.outputs]).all():
                raise TrainingError(
                    f"the predictions of {name} are not finite after epoch {epoch}: "
                    f"{self._remedy()}"
                )
            labels, mask = part.labels[:, task.labels], part.mask[:, task.labels]
            sums = metrics.task_sums(task, outputs[:, task.outputs], labels, mask)
            scores[name] = metrics.task_score(task, sums)
            spreads[name] = self._output_spreads[name].of(outputs[:, task.outputs])
        return scores, spreads
