"""A slot: a resident process that trains one trial after another.

It holds the CPUs and GPUs of training, reads a feature set once and keeps it (without a copy: the
arrays lie in the node's object store), and knows nothing of the study: it is handed a job and
yields events. What it yields is written by ``sweeps.trial``, on the driver's node.
"""

import functools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
import ray
import torch
from ray.actor import ActorHandle
from safetensors.torch import load as load_weights
from safetensors.torch import save as save_weights

from mtl.config import SequenceConfig, TrialConfig, read_config
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
from sweeps.search_file import Resources
from sweeps.shards import Shards

PARTS = ("select", "confirm", "test")


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
        epochs = trainer.epochs(lambda: self._stopped)
        pruned = False
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

    def __init__(self, shards: Shards, listing: Listing, parts: Mapping[str, str]) -> None:
        self.shards, self.listing, self.parts = shards, listing, parts
        self.table = functools.cache(shards.load)
        self.joined = functools.lru_cache(maxsize=8)(self._joined)

    def of(self, config: TrialConfig) -> TrialData:
        """The data of one trial."""
        tables: list[FeatureTable] = [self.table(name) for name in config.features]
        train, parts = self.joined(
            config.features, config.sequence.model_copy(update={"window_frames": 2})
        )
        return TrialData(
            trained_tasks(config.tasks, self.listing),
            train,
            parts,
            np.concatenate([table.mean for table in tables]),
            np.concatenate([table.std for table in tables]),
            training_prior(self.listing),
        )

    def _joined(
        self, features: tuple[str, ...], sequence: SequenceConfig
    ) -> tuple[tuple[VideoSequence, ...], dict[str, Part]]:
        sequences = join(self.listing, [self.table(name) for name in features], sequence)
        train = tuple(s for name, s in sequences.items() if self.parts[name] == "train")
        parts = {
            part: part_of(self.listing, sequences, [n for n, p in self.parts.items() if p == part])
            for part in PARTS
        }
        return train, parts


class Slot:
    """The actor: ``train`` runs one job at a time, ``control`` calls reach it meanwhile."""

    def __init__(self, setup: tuple[Shards, Listing, Mapping[str, str], int]) -> None:
        shards, listing, parts, threads = setup
        torch.set_num_threads(threads)
        self._data = SlotData(shards, listing, parts)
        self._run: JobRun | None = None
        self._stopped = False

    def ready(self) -> bool:
        """Answers once the process is up."""
        return True

    def train(self, job: Job) -> Iterator[Epoch | End]:
        """Train a job, streaming its events."""
        config = read_config(job.config)
        self._run = JobRun(job, config, self._data.of(config))
        if self._stopped:
            self._run.stop()
        yield from self._run.events()

    @ray.method(concurrency_group="control")
    def decide(self, epoch: int, prune: bool) -> None:
        """The study's word on an epoch that the running job waits after."""
        if self._run is not None:
            self._run.decide(epoch, prune)

    @ray.method(concurrency_group="control")
    def stop(self) -> None:
        """The sweep ends: the running job, and any that still comes, ends within a few steps."""
        self._stopped = True
        if self._run is not None:
            self._run.stop()


def start_slots(
    number: int, resources: Resources, shards: Shards, listing: Listing, parts: Mapping[str, str]
) -> list[ActorHandle[Any]]:
    """Start slots, and wait until they are up."""
    actor: Any = ray.remote(concurrency_groups={"control": 1})(Slot).options(
        num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker
    )
    arguments = ray.put((shards, listing, dict(parts), resources.cpus_per_worker))
    slots = [actor.remote(arguments) for _ in range(number)]
    ray.get([slot.ready.remote() for slot in slots])
    return slots
