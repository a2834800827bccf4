"""Group of DDP workers, as one Ray Train run that lasts until the group is no longer needed."""

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
"""Maximum length of the description of a failure's cause; longer texts are cut."""


class _Trainer(TorchTrainer):
    """Ray Train's trainer without the callback that cleans up placement groups.

    The callback starts a process for each run, which removes the placement group (reserved CPUs and
    GPUs) of a killed controller and then never ends (ray 2.60). It is not needed: the driver
    removes the placement group of a failed worker group, and Ray removes those of a dead driver.
    """

    def _create_default_callbacks(self) -> list[Any]:
        # mypy sees the Trainer of Train V1 under this name, which has no such method.
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]
        return [c for c in callbacks if not isinstance(c, PlacementGroupCleanerCallback)]


class _FailureCallback(UserCallback):
    """Ray Train callback that calls a function with the cause of each failure of the workers.

    It runs in the controller, the process in which Ray Train manages the workers.
    """

    def __init__(self, report_failure: Callable[[str], None]) -> None:
        self._report_failure = report_failure

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Report a failure's cause; Ray Train calls this method before it restarts the workers.

        Args:
            run_context: Description of the run, not used.
            worker_exceptions: Error of each failed worker by its rank.
        """
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
    """Run a function in each DDP worker of a group, and return when all workers have ended it.

    If the function raises in one worker, or a worker's process dies, all workers are stopped and
    started again, and each calls the function again.

    Args:
        name: Name of the Ray Train run.
        loop: Function that each worker calls.
        workers: Number of workers.
        cpus: CPUs that each worker reserves.
        gpus: GPUs that each worker reserves.
        max_failures: Number of restarts of the group before this function raises.
        report_failure: Function that is called with the cause of each failure as text. It is called
            in another process, the controller of the Ray Train run.

    Raises:
        WorkerGroupError: If the workers fail after the last restart.
        ControllerError: If the workers cannot be started.
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
    """Return an error that ended a Ray Train run as one line, without the text that Ray adds."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = failure_cause(error.worker_failures.values())
        return f"the workers died once too often, the last time of: {cause}"
    if isinstance(error, ControllerError):
        return f"the workers could not be started: {_one_line(error.controller_failure)}"
    return in_one_line(error)


def failure_cause(failures: Iterable[Exception]) -> str:
    """Return the cause of the failure of several DDP workers as one line.

    If a worker's process died, the cause is that death, because errors of the other workers follow
    from it. Otherwise the cause is the first error.

    Args:
        failures: Error of each failed worker.
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
