"""A slot of one process, which holds the CPUs and GPUs and trains in itself."""

from collections.abc import Iterator

import ray
import torch

from mtl.config import read_config
from sweeps.job import End, Epoch, Job
from sweeps.job_run import JobRun
from sweeps.orders import Orders, Stop
from sweeps.slots.setup import Setup
from sweeps.trial_data import SlotData


class ProcessSlot:
    """The actor: ``train`` runs one job at a time, ``control`` calls reach it meanwhile."""

    def __init__(self, setup: Setup) -> None:
        torch.set_num_threads(setup.threads)
        self._data = SlotData(setup.shards, setup.listing, setup.parts)
        self._orders = Orders()

    def ready(self) -> str:
        """Answers once the process is up; it is in no placement group."""
        return ""

    def train(self, job: Job) -> Iterator[Epoch | End]:
        """Train a job, streaming its events."""
        self._orders.begin(job.name)
        config = read_config(job.config)
        yield from JobRun(job, config, self._data.of(config), self._orders).events()

    @ray.method(concurrency_group="control")
    def decide(self, job: str, epoch: int, prune: bool) -> None:
        """The study's word on an epoch that a job waits after."""
        self._orders.decide(job, epoch, prune)

    @ray.method(concurrency_group="control")
    def stop(self, when: Stop) -> None:
        """The sweep ends: the running job, and any that still comes, ends."""
        self._orders.stop(when)

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        """Nothing is left to end: the process ends with its actor."""
