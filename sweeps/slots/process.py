"""A slot of one process, which holds the CPUs and GPUs and trains in itself.

Tune's side of a trial imports this module with the slot's handle: what needs torch is imported in
the slot.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sweeps.job import End, Epoch, Job
from sweeps.slots.slot import Slot

if TYPE_CHECKING:
    from sweeps.slots.setup import Setup


class ProcessSlot(Slot):
    """The actor: ``train`` runs one job at a time, ``control`` calls reach it meanwhile."""

    def __init__(self, setup: "Setup") -> None:
        import torch

        from sweeps.trial_data import SlotData

        super().__init__()
        torch.set_num_threads(setup.threads)
        self._data = SlotData(setup.shards, setup.listing, setup.parts)

    def ready(self) -> str:
        """Answers once the process is up; it is in no placement group."""
        return ""

    def train(self, job: Job) -> Iterator[Epoch | End]:
        """Train a job, streaming its events."""
        from mtl.config import read_config
        from sweeps.job_run import JobRun

        self._orders.begin(job.name)
        config = read_config(job.config)
        yield from JobRun(job, config, self._data.of(config), self._orders).events()
