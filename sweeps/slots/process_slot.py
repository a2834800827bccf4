"""Slot of one process, which holds CPUs and GPUs and trains one trial after another.

Tune's side of a trial imports this module with the slot's handle, so modules that need torch are
imported only in the slot.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import ray

from sweeps.records.messages import End, Epoch, Job
from sweeps.slots.base import Slot

if TYPE_CHECKING:
    from sweeps.slots.setup import SlotSetup


class ProcessSlot(Slot):
    """Ray actor of a slot that trains one trial after another by itself, without DDP.

    ``train`` runs one job (trial) at a time; the calls that control the trial run meanwhile. The
    modules that a job needs are imported when the process starts, while the driver reads the
    features.

    Args:
        threads: Number of torch's threads.
    """

    def __init__(self, threads: int) -> None:
        import torch

        import sweeps.data.trial_data  # noqa: F401

        super().__init__()
        torch.set_num_threads(threads)

    def ready(self, setup: "list[ray.ObjectRef[SlotSetup]]") -> str:
        """Read the data that all trials share; return an empty string.

        The string stands for the id of a placement group, which a slot of one process does not
        have.

        Args:
            setup: Reference to the ``SlotSetup`` (features, listed frames and splits), in a list,
                so that Ray does not fetch it early.
        """
        from sweeps.data.trial_data import SlotData

        given = ray.get(setup[0])
        self._data = SlotData(given.shards, given.listing, given.parts, given.folds)
        return ""

    def train(self, job: Job) -> Iterator[Epoch | End]:
        """Train a trial and yield its events: the end of each epoch, then the end of the trial.

        Args:
            job: The trial.
        """
        from mtl.config import read_config
        from sweeps.slots.trial_loop import TrialLoop

        self._control.begin(job.name)
        config = read_config(job.config)
        data = self._data.for_trial(config, job.fold)
        yield from TrialLoop(job, config, data, self._control).events()
