"""A group of DDP workers, as one Ray Train run that one loop fills from its start to its end."""

import tempfile
from collections.abc import Callable
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from sweeps.rendezvous import OneAddress


class _Trainer(TorchTrainer):
    """Ray's, without a process beside each run that removes the placement group of one whose
    controller was killed, and that never ends once it has (ray 2.60). Here the driver removes that
    of a group it has lost, and Ray those of a driver that is gone.
    """

    def _create_default_callbacks(self) -> list[Any]:
        # mypy sees the Trainer of Train V1 under this name, which has no such method.
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


def run_workers(
    name: str, loop: Callable[[], None], workers: int, cpus: float, gpus: float, deaths: int
) -> None:
    """Run a loop in each of a group's workers until all have come to its end.

    A worker that dies, or raises, takes the group with it; it is started anew, and its loop.

    Args:
        name: Of the run.
        loop: What each worker does.
        workers: How many.
        cpus: What each one holds; ``gpus`` beside it.
        gpus: See there.
        deaths: How many are borne.
    """
    share = {"CPU": cpus, "GPU": gpus}
    with tempfile.TemporaryDirectory() as temporary:
        _Trainer(
            loop,
            torch_config=OneAddress(),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus > 0,
                resources_per_worker={k: v for k, v in share.items() if v},
            ),
            run_config=RunConfig(
                name=name,
                storage_path=temporary,
                # mypy sees that of Train V1, which has no controller.
                failure_config=FailureConfig(  # type: ignore[call-arg]
                    max_failures=deaths,
                    # Workers that find no place are the driver's: it says so, or tries elsewhere.
                    controller_failure_limit=0,
                ),
            ),
        ).fit()
