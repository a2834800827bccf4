"""Training of one trial by one process or several DDP workers, without Ray."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain

import numpy as np
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights

from mtl.config import TrialConfig
from mtl.optimisation.distributed import SINGLE_WORKER, Workers
from mtl.training.inference import ModelWeights, TrialData, predict_best
from mtl.training.trainer import EpochResult, Trainer
from sweeps.data.trial_data import PARTS
from sweeps.records.messages import End, EndState, Epoch, Job
from sweeps.slots.control import Stop, TrialControl

HEARTBEAT_SECONDS = 60.0
"""Seconds after which waiting DDP workers exchange a message, lest a collective call times out."""


class TrialLoop:
    """Loop that trains one trial and makes the events (epochs, end) to report to the driver.

    All DDP workers of the trial run the same loop in step.

    Args:
        job: The trial to train, with the checkpoint to continue from.
        config: The trial's config.
        data: The trial's sequences, labels and feature statistics.
        control: Source of pruning decisions and stop requests; only that of the first worker is
            used.
        workers: The DDP workers that train the trial together.
    """

    def __init__(
        self,
        job: Job,
        config: TrialConfig,
        data: TrialData,
        control: TrialControl | None = None,
        workers: Workers = SINGLE_WORKER,
    ) -> None:
        self.job, self.config, self.data = job, config, data
        self.control, self.workers = control or TrialControl(), workers

    def events(self) -> Iterator[Epoch | End]:
        """Train the trial and yield each epoch that the study has not recorded, then the end.

        The end of a complete or pruned trial holds its predictions.
        """
        job, trainer = self.job, Trainer(self.config, self.data, self.job.checkpoint, self.workers)
        kept: dict[int, ModelWeights] = {e: load_weights(w) for e, w in job.weights.items()}
        before = len(trainer.learning_curve)
        stopped = job.stopped or (job.undecided and self._is_pruned_after(job.reported))
        pruned = stopped and before >= job.reported
        epochs: Iterable[EpochResult] = ()
        if not pruned:
            epochs = trainer.epochs(lambda: self.control.stopped() == Stop.NOW)
        for result in chain(trainer.learning_curve[job.reported :], epochs):
            event = self._epoch(result, trainer, kept, fresh=result.epoch > before)
            yield event
            # Epochs that a lost checkpoint held may end otherwise when they are trained again on a
            # GPU, but the decision that was recorded after them stays.
            pruned = (stopped and result.epoch >= job.reported) or (
                job.waits_after(event.result) and self._is_pruned_after(result.epoch)
            )
            if pruned or self.workers.broadcast_flag(self.control.stopped() != Stop.NOT):
                break
        done = len(trainer.learning_curve) == self.config.training.epochs
        state: EndState = "pruned" if pruned else "complete" if done else "interrupted"
        yield self._end(state, trainer.learning_curve[-1:], kept)

    def _is_pruned_after(self, epoch: int) -> bool:
        """Wait for the study's decision after an epoch; return True if it is to prune.

        All DDP workers of the trial return the same value.
        """
        first = self.workers.rank == 0
        while True:
            prune = self.control.decision(epoch, HEARTBEAT_SECONDS) if first else None
            prune = self.workers.broadcast_object(prune)
            if prune is not None:
                return prune

    def _epoch(
        self, result: EpochResult, trainer: Trainer, kept: dict[int, ModelWeights], fresh: bool
    ) -> Epoch:
        if not fresh:
            return Epoch(asdict(result), None, None)
        best = set(result.best_epochs.values())
        if result.epoch in best:
            kept[result.epoch] = trainer.weights()
        for epoch in set(kept) - best:
            del kept[epoch]
        if self.workers.rank > 0:
            # Only the first worker's events are written.
            return Epoch(asdict(result), None, None)
        weights = save_weights(kept[result.epoch]) if result.epoch in best else None
        return Epoch(asdict(result), trainer.checkpoint(), weights)

    def _end(self, state: EndState, last: list[EpochResult], kept: dict[int, ModelWeights]) -> End:
        parts = [self.data.parts[name] for name in PARTS]
        if state == "interrupted":
            return End(state, np.empty(0, int), np.empty((0, 0), np.float32))
        epochs, started = last[0].best_epochs, time.perf_counter()
        outputs = predict_best(self.config, self.data, kept, epochs, self.workers)
        return End(
            state,
            np.concatenate([part.rows for part in parts]),
            np.concatenate([outputs[name] for name in PARTS]),
            time.perf_counter() - started,
            len(set(epochs.values())),
            tuple(task for task, collapsed in last[0].collapsed.items() if collapsed),
        )
