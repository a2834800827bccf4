"""A group of DDP workers, as one Ray Train run that one loop fills from its start to its end."""

import tempfile
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from mtl.errors import in_one_line
from sweeps.cluster.rendezvous import OneAddress

SAID_CHARACTERS = 300


class _Trainer(TorchTrainer):
    """Ray's, without a process beside each run that removes the placement group of one whose
    controller was killed, and that never ends once it has (ray 2.60). Here the driver removes that
    of a group it has lost, and Ray those of a driver that is gone.
    """

    def _create_default_callbacks(self) -> list[Any]:
        # mypy sees the Trainer of Train V1 under this name, which has no such method.
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


class _Deaths(UserCallback):
    """Hears in the run's controller of workers that died."""

    def __init__(self, died: Callable[[str], None]) -> None:
        self._died = died

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Told by Ray Train before it starts the group anew."""
        self._died(cause_of_death(worker_exceptions.values()))


def run_workers(
    name: str,
    loop: Callable[[], None],
    workers: int,
    cpus: float,
    gpus: float,
    deaths: int,
    died: Callable[[str], None] | None = None,
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
        died: Told the cause of each, in another process.
    """
    share = {"CPU": cpus, "GPU": gpus}
    # mypy sees the RunConfig of Train V1, which has other callbacks and no controller.
    callbacks: list[Any] = [_Deaths(died)] if died else []
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
                callbacks=callbacks,
                failure_config=FailureConfig(  # type: ignore[call-arg]
                    max_failures=deaths,
                    # Workers that find no place are the driver's: it says so, or tries elsewhere.
                    controller_failure_limit=0,
                ),
            ),
        ).fit()


def why_it_ended(error: Exception) -> str:
    """What ``run_workers`` raised, in one line, without Ray Train's words around it."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = cause_of_death(error.worker_failures.values())
        return f"the workers died once too often, the last time of: {cause}"
    if isinstance(error, ControllerError):
        return f"the workers could not be started: {_said(error.controller_failure)}"
    return in_one_line(error)


def cause_of_death(failures: Iterable[Exception]) -> str:
    """In one line: how a process was lost, rather than what the others say when it is gone."""
    causes = [getattr(failure, "health_check_failure", failure) for failure in failures]
    return _said(min(causes, key=lambda cause: not isinstance(cause, RayActorError)))


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if isinstance(error, RayActorError):
        # First it says which actor that was, in lines that are indented.
        why = [line for line in lines[1:] if not line.startswith("\t")] or lines
        return textwrap.shorten(" ".join(why), SAID_CHARACTERS)
    if isinstance(error, RayTaskError):
        return lines[-1]
    return in_one_line(error)
