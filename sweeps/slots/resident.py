"""The Ray Train run of a group slot, which lasts as long as the slot."""

import functools
import tempfile
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from sweeps.search_file import Resources
from sweeps.slots.rendezvous import OneAddress
from sweeps.slots.setup import Setup
from sweeps.slots.workers import train_jobs

DEATHS = 20
"""Of workers, in the life of a group; then the slot is lost, and another one started."""


class _Trainer(TorchTrainer):
    """Ray's, without a process beside each run that removes the placement group of one whose
    controller was killed, and that never ends once it has (ray 2.60). Here the sweep's driver
    removes that of a slot it has lost, and Ray those of a driver that is gone.
    """

    def _create_default_callbacks(self) -> list[Any]:
        # mypy sees the Trainer of Train V1 under this name, which has no such method.
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


def fit(
    name: str,
    slot: ActorHandle[Any],
    setup: list[ray.ObjectRef[Setup]],
    resources: Resources,
) -> None:
    """Hold the workers, which train the slot's jobs, until it sends them home.

    Args:
        name: Of the run.
        slot: Hands out jobs.
        setup: A reference to it, in a list, so that only the workers fetch it.
        resources: What the workers hold.
    """
    share = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    with tempfile.TemporaryDirectory() as temporary:
        _Trainer(
            functools.partial(train_jobs, slot, setup),
            torch_config=OneAddress(),
            scaling_config=ScalingConfig(
                num_workers=resources.workers_per_trial,
                use_gpu=resources.gpus_per_worker > 0,
                resources_per_worker={k: v for k, v in share.items() if v},
            ),
            run_config=RunConfig(
                name=name,
                storage_path=temporary,
                # mypy sees that of Train V1, which has no controller.
                failure_config=FailureConfig(  # type: ignore[call-arg]
                    # How often a trial bears a death is the desk's matter.
                    max_failures=DEATHS,
                    # Workers that find no place are the sweep's: it says so, and starts
                    # another slot or gives it up.
                    controller_failure_limit=0,
                ),
            ),
        ).fit()
