"""A slot of one process, which holds the CPUs and GPUs and trains in itself.

Tune's side of a trial imports this module with the slot's handle: what needs torch is imported in
the slot.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import ray

from sweeps.records.messages import End, Epoch, Job
from sweeps.slots.base import Slot

if TYPE_CHECKING:
    from sweeps.slots.setup import SlotSetup


class ProcessSlot(Slot):
    """The actor: ``train`` runs one job at a time, ``control`` calls reach it meanwhile.

    What a job needs is imported as the process starts, while the driver reads the shards.

    Args:
        threads: Torch's.
    """

    def __init__(self, threads: int) -> None:
        import torch

        import sweeps.data.trial_data  # noqa: F401

        super().__init__()
        torch.set_num_threads(threads)

    def ready(self, setup: "list[ray.ObjectRef[SlotSetup]]") -> str:
        """Take the setup (a reference to it, in a list); the slot is in no placement group."""
        from sweeps.data.trial_data import SlotData

        given = ray.get(setup[0])
        self._data = SlotData(given.shards, given.listing, given.parts, given.folds)
        return ""

    def train(self, job: Job) -> Iterator[Epoch | End]:
        """Train a job, streaming its events."""
        from mtl.config import read_config
        from sweeps.slots.trial_loop import JobRun

        self._control.begin(job.name)
        config = read_config(job.config)
        data = self._data.of(config, job.fold)
        yield from JobRun(job, config, data, self._control).events()
