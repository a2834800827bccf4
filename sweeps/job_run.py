"""One job in training, and the data of trials: what a slot does, in any process, without Ray."""

import functools
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from typing import Protocol

import numpy as np
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights

from mtl.config import Frames, TrialConfig
from mtl.dataset import Listing
from mtl.inference import TrialData, Weights, predict_best
from mtl.sequences import (
    FeatureTable,
    Part,
    VideoSequence,
    join,
    part_of,
    trained_tasks,
    training_prior,
)
from mtl.training import EpochResult, Trainer
from sweeps.job import End, EndState, Epoch, Job

PARTS = ("select", "confirm", "test")


class Tables(Protocol):
    """Where feature sets come from: ``sweeps.shards.Shards``, or files read in this process."""

    def load(self, name: str) -> FeatureTable:
        """A feature set in memory."""


class JobRun:
    """One job being trained, and what is told to it from outside meanwhile."""

    def __init__(self, job: Job, config: TrialConfig, data: TrialData) -> None:
        self.job, self.config, self.data = job, config, data
        self._told = threading.Condition()
        self._decisions: dict[int, bool] = {}
        self._stopped = False

    def events(self) -> Iterator[Epoch | End]:
        """Train, yielding each epoch that the study does not know yet, and at last the end."""
        trainer = Trainer(self.config, self.data, self.job.checkpoint)
        kept: dict[int, Weights] = {e: load_weights(w) for e, w in self.job.weights.items()}
        before = len(trainer.history)
        pruned = self.job.stopped and before >= self.job.reported
        epochs: Iterable[EpochResult] = ()
        if not pruned:
            epochs = trainer.epochs(lambda: self._stopped)
        for result in chain(trainer.history[self.job.reported :], epochs):
            yield self._epoch(result, trainer, kept, fresh=result.epoch > before)
            pruned = result.epoch in self.job.rungs and self._wait(result.epoch)
            if pruned or self._stopped:
                break
        done = len(trainer.history) == self.config.training.epochs
        state: EndState = "pruned" if pruned else "complete" if done else "interrupted"
        yield self._end(state, trainer.history[-1:], kept)

    def decide(self, epoch: int, prune: bool) -> None:
        """The study's word on an epoch that the job waits after."""
        with self._told:
            self._decisions[epoch] = prune
            self._told.notify_all()

    def stop(self) -> None:
        """End within a few steps; the checkpoint of the last epoch stays."""
        with self._told:
            self._stopped = True
            self._told.notify_all()

    def _wait(self, epoch: int) -> bool:
        with self._told:
            self._told.wait_for(lambda: epoch in self._decisions or self._stopped)
            return self._decisions.get(epoch, False)

    def _epoch(
        self, result: EpochResult, trainer: Trainer, kept: dict[int, Weights], fresh: bool
    ) -> Epoch:
        if not fresh:
            return Epoch(asdict(result), None, None)
        best = set(result.best_epochs.values())
        if result.epoch in best:
            kept[result.epoch] = trainer.weights()
        for epoch in set(kept) - best:
            del kept[epoch]
        weights = save_weights(kept[result.epoch]) if result.epoch in best else None
        return Epoch(asdict(result), trainer.checkpoint(), weights)

    def _end(self, state: EndState, last: list[EpochResult], kept: dict[int, Weights]) -> End:
        parts = [self.data.parts[name] for name in PARTS]
        if state == "interrupted":
            return End(state, np.empty(0, int), np.empty((0, 0), np.float32))
        outputs = predict_best(self.config, self.data, kept, last[0].best_epochs)
        return End(
            state,
            np.concatenate([part.rows for part in parts]),
            np.concatenate([outputs[name] for name in PARTS]),
        )


class SlotData:
    """The data of trials: feature sets held once, joined for each combination that is asked for."""

    def __init__(self, shards: Tables, listing: Listing, parts: Mapping[str, str]) -> None:
        self.shards, self.listing, self.parts = shards, listing, parts
        self.table = functools.cache(shards.load)
        self.joined = functools.lru_cache(maxsize=8)(self._joined)

    def of(self, config: TrialConfig) -> TrialData:
        """The data of one trial."""
        tables: list[FeatureTable] = [self.table(name) for name in config.features]
        sequence = config.sequence
        train, parts = self.joined(config.features, sequence.frames, sequence.frame_stride)
        return TrialData(
            trained_tasks(config.tasks, self.listing),
            train,
            parts,
            np.concatenate([table.mean for table in tables]),
            np.concatenate([table.std for table in tables]),
            training_prior(self.listing),
        )

    def _joined(
        self, features: tuple[str, ...], which: Frames, stride: int
    ) -> tuple[tuple[VideoSequence, ...], dict[str, Part]]:
        tables = [self.table(name) for name in features]
        sequences = join(self.listing, tables, which, stride)
        train = tuple(s for name, s in sequences.items() if self.parts[name] == "train")
        parts = {
            part: part_of(self.listing, sequences, [n for n, p in self.parts.items() if p == part])
            for part in PARTS
        }
        return train, parts
