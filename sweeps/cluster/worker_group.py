"""Group of DDP workers: one Ray Train run whose loop lasts until the group is no longer needed."""

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
from sweeps.cluster.rendezvous import SingleAddressConfig

MAX_CAUSE_CHARACTERS = 300
"""Longest description of the cause of a failure; longer ones are cut."""


class _Trainer(TorchTrainer):
    """Ray Train's trainer without the callback that cleans up placement groups.

    The callback starts a process for each run, which removes the placement group of a killed
    controller and then never ends (ray 2.60). It is not needed: the sweep's driver removes the
    placement group of a lost worker group, and Ray those of a lost driver.
    """

    def _create_default_callbacks(self) -> list[Any]:
        # mypy sees the Trainer of Train V1 under this name, which has no such method.
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


class _FailureCallback(UserCallback):
    """Callback in the run's controller that reports failures of workers."""

    def __init__(self, report_failure: Callable[[str], None]) -> None:
        self._report_failure = report_failure

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Report the cause; Ray Train calls this before it restarts the group."""
        self._report_failure(failure_cause(worker_exceptions.values()))


def run_workers(
    name: str,
    loop: Callable[[], None],
    workers: int,
    cpus: float,
    gpus: float,
    max_failures: int,
    report_failure: Callable[[str], None] | None = None,
) -> None:
    """Run a loop in each worker of a group, and return when the loop has returned in all of them.

    If the loop raises in one worker, or the worker's process dies, the whole group is stopped and
    started again, and so is the loop.

    Args:
        name: Name of the Ray Train run.
        loop: Function that each worker calls.
        workers: Number of workers.
        cpus: CPUs that each worker reserves.
        gpus: GPUs that each worker reserves.
        max_failures: Number of restarts of the group before this function raises.
        report_failure: Function that is called with the cause of each failure. It runs in another
            process, the run's controller.
    """
    resources = {"CPU": cpus, "GPU": gpus}
    # mypy sees the RunConfig of Train V1, which has other callbacks and no controller.
    callbacks: list[Any] = [_FailureCallback(report_failure)] if report_failure else []
    with tempfile.TemporaryDirectory() as temporary:
        _Trainer(
            loop,
            torch_config=SingleAddressConfig(),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=gpus > 0,
                resources_per_worker={key: value for key, value in resources.items() if value},
            ),
            run_config=RunConfig(
                name=name,
                storage_path=temporary,
                callbacks=callbacks,
                failure_config=FailureConfig(  # type: ignore[call-arg]
                    max_failures=max_failures,
                    # The driver handles workers that cannot be placed: it raises, or tries again.
                    controller_failure_limit=0,
                ),
            ),
        ).fit()


def describe_failure(error: Exception) -> str:
    """Return an error of ``run_workers`` in one line, without the text that Ray Train adds."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = failure_cause(error.worker_failures.values())
        return f"the workers died once too often, the last time of: {cause}"
    if isinstance(error, ControllerError):
        return f"the workers could not be started: {_one_line(error.controller_failure)}"
    return in_one_line(error)


def failure_cause(failures: Iterable[Exception]) -> str:
    """Return the cause of a group's failure in one line.

    A process that died comes first: the errors of the other workers are its consequence.

    Args:
        failures: Errors of the group's workers.
    """
    causes = [getattr(failure, "health_check_failure", failure) for failure in failures]
    return _one_line(min(causes, key=lambda cause: not isinstance(cause, RayActorError)))


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if isinstance(error, RayActorError):
        # The first line and the indented ones identify the actor; the others give the cause.
        cause = [line for line in lines[1:] if not line.startswith("\t")] or lines
        return textwrap.shorten(" ".join(cause), MAX_CAUSE_CHARACTERS)
    if isinstance(error, RayTaskError):
        return lines[-1]
    return in_one_line(error)
