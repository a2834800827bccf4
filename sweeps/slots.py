"""A slot: a resident process that trains one trial after another.

It holds the CPUs and GPUs of training, reads a feature set once and keeps it (without a copy: the
arrays lie in the node's object store), and knows nothing of the study: it is handed a job and
yields events. What it yields is written by ``sweeps.trial``, on the driver's node.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from mtl.config import read_config
from mtl.dataset import Listing
from sweeps.job import End, Epoch, Job
from sweeps.job_run import JobRun, SlotData
from sweeps.search_file import Resources
from sweeps.shards import Shards

START_TIMEOUT_SECONDS = 300


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
    """Start slots, and return those that are up after ``START_TIMEOUT_SECONDS`` at most."""
    remote: Any = ray.remote
    actor = remote(
        concurrency_groups={"control": 1},
        num_cpus=resources.cpus_per_worker,
        num_gpus=resources.gpus_per_worker,
    )(Slot)
    setup = ray.put((shards, listing, dict(parts), resources.cpus_per_worker))
    slots = {(slot := actor.remote(setup)).ready.remote(): slot for _ in range(number)}
    up, pending = ray.wait(list(slots), num_returns=number, timeout=START_TIMEOUT_SECONDS)
    ray.get(up)
    for ready in pending:
        ray.kill(slots[ready])
    return [slots[ready] for ready in up]
