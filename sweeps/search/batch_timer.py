"""Timing of batches of a sweep's configs: in this process, or on a slot of a Ray cluster."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mtl.config import read_config
from mtl.errors import in_one_line
from mtl.optimisation.memory import machine_bytes
from mtl.training.batch_time import BatchTime, time_batch
from sweeps.cluster.connection import LOCAL
from sweeps.planning.cost_table import BYTES_PER_PARAMETER
from sweeps.planning.plan import Plan, SizedConfig
from sweeps.planning.time_estimate import TimedConfig, Work, choose_configs, work_of
from sweeps.search_file import ResourcesSection

MOST_SECONDS = 25.0
"""Time after which no further config is timed."""
SLOT_SECONDS = 60.0
"""Longest wait for a slot's answer, the start of its process included."""


@dataclass(frozen=True)
class TimingJob:
    """Config of which one worker's batches are timed; plain data, which Ray can send.

    Attributes:
        config: The config as plain data.
        parameters: Number of the model's parameters.
        tasks: Tasks to train.
        width: Number of features of all feature sets together.
        training_windows: Windows of a training batch.
        prediction_windows: Windows of a prediction batch.
        threads: Number of torch's threads.
    """

    config: Mapping[str, Any]
    parameters: int
    tasks: tuple[str, ...]
    width: int
    training_windows: int
    prediction_windows: int
    threads: int


Stopped = Callable[[], bool]
"""Function that returns True once the sweep that waits for the times has ended."""
Timer = Callable[[TimingJob, Stopped], BatchTime]
"""Function that times the batches of a config somewhere; it may end early once it is stopped."""


class NoSlot(Exception):
    """Exception of a cluster in which no slot becomes free in time."""


def never() -> bool:
    """Return False: a timing that is never stopped."""
    return False


def time_here(job: TimingJob, stopped: Stopped = never) -> BatchTime:
    """Time a config's batches in this process.

    Args:
        job: The config and the size of its batches.
        stopped: Not used; a few seconds after its first batches no further one is timed.

    Raises:
        MemoryError: If the model is too large for this machine, without trying.
    """
    config = read_config(job.config)
    need = BYTES_PER_PARAMETER * job.parameters
    if config.training.device == "cpu" and need > machine_bytes():
        gb, there = need / 1e9, machine_bytes() / 1e9
        raise MemoryError(f"its training needs more than {gb:.0f} GB of {there:.0f} GB")
    before = torch.get_num_threads()
    torch.set_num_threads(job.threads)
    try:
        return time_batch(
            config, job.tasks, job.width, job.training_windows, job.prediction_windows
        )
    finally:
        torch.set_num_threads(before)


def slot_timer(resources: ResourcesSection) -> Timer:
    """Return a function that times batches with the CPUs and GPUs of one worker of a slot.

    The program must be connected to a Ray cluster.

    Args:
        resources: Resources section of the search file.
    """
    return _ray_timer(resources.cpus_per_worker, resources.gpus_per_worker)


def timer_beside(plan: Plan, address: str) -> tuple[Timer | None, str]:
    """Return the function that times batches while slots train, and the place where it does.

    A process of its own times them, which can be stopped at any time, and whose lack of memory ends
    neither this program nor a trial.

    Args:
        plan: The search file, checked against the dataset.
        address: Address of the Ray cluster, or ``local`` if it was started on this machine.

    Returns:
        Two values: the function, or None if the slots hold GPUs, of which there may be no other;
        and the place as words for the user.
    """
    if plan.file.resources.gpus_per_worker:
        return None, "by the second epoch of its first trial"
    place = "on this machine" if address == LOCAL else f"in the cluster at {address}"
    return _ray_timer(0, 0), f"timed beside its first trial, {place}"


def _ray_timer(cpus: float, gpus: float) -> Timer:
    import ray

    remote: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(time_here)

    def timer(job: TimingJob, stopped: Stopped) -> BatchTime:
        answer = remote.options(name="time a batch").remote(job)
        deadline = time.monotonic() + SLOT_SECONDS
        while not ray.wait([answer], timeout=0.5)[0]:
            if stopped() or time.monotonic() > deadline:
                ray.cancel(answer, force=True)
                raise NoSlot(f"no slot of the cluster answers within {SLOT_SECONDS:.0f} s")
        try:
            found: BatchTime = ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        return found

    return timer


def time_configs(plan: Plan, timer: Timer, stopped: Stopped = never) -> list[TimedConfig]:
    """Time the batches of at most 8 configs that span a sweep's space.

    A config that cannot be timed is returned with the reason.

    Args:
        plan: The search file, checked against the dataset.
        timer: Function that times a config.
        stopped: Function that is called before each config; if it returns True, no more are timed.

    Raises:
        NoSlot: If the cluster has no slot that times the first config.
    """
    timed: list[TimedConfig] = []
    started = time.monotonic()
    for sized in choose_configs(plan):
        if stopped():
            break
        work = work_of(plan, sized.config)
        if timed and time.monotonic() - started > MOST_SECONDS:
            timed.append(TimedConfig(sized, work, None, "the others took long enough"))
            continue
        try:
            batch = timer(timing_job(plan, sized, work), stopped)
        except Exception as error:
            if isinstance(error, NoSlot) and not timed:
                raise
            # Too little memory is the usual reason; torch has no single error type for it.
            timed.append(TimedConfig(sized, work, None, in_one_line(error)))
        else:
            timed.append(TimedConfig(sized, work, batch))
    return timed


def timing_job(plan: Plan, sized: SizedConfig, work: Work) -> TimingJob:
    """Return the timing job of a config.

    Args:
        plan: The search file, checked against the dataset.
        sized: The config and its number of parameters.
        work: Batches of its trial.
    """
    config, resources = sized.config, plan.file.resources
    if config.training.device == "auto" and not resources.gpus_per_worker:
        # As in a slot, which sees no GPU then.
        training = config.training.model_copy(update={"device": "cpu"})
        config = config.model_copy(update={"training": training})
    return TimingJob(
        config=config.plain(),
        parameters=sized.parameters,
        tasks=tuple(task for task in config.tasks if task in plan.labelled_tasks),
        width=sum(map(plan.dataset.width, config.features)),
        training_windows=work.training_windows,
        prediction_windows=work.prediction_windows,
        threads=resources.cpus_per_worker,
    )
