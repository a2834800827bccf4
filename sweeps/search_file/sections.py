"""The sections of a search file that hold settings, each with its rules and defaults."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from mtl.strict import AboveZero, NonNegative, Positive, Probability, Strict


class SearchSection(Strict):
    """How points are proposed and judged.

    Attributes:
        trials: Trials in all, shared equally by the compared values.
        metric: ``score`` is the sum over the trained and labelled tasks; or one task's own.
        confirm: Share of the validation videos that nothing is chosen on.
    """

    trials: Positive = 18
    sampler: Literal["tpe", "random"] = "tpe"
    metric: Literal["score", "valence", "arousal", "expression", "action_units"] = "score"
    confirm: Probability = 0.5
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1234


class PrunerSection(Strict):
    """Which trials are stopped early: at rungs of ``min_epochs * reduction_factor ** k`` epochs."""

    kind: Literal["asha", "none"] = "asha"
    min_epochs: Positive = 2
    reduction_factor: Annotated[int, Field(ge=2)] = 3


def _none_or_enough(folds: int) -> int:
    if folds < 0 or 0 < folds < 3:
        raise ValueError("must be 0, or at least 3: one held out, one selected on, others train")
    return folds


def _with_zone(time: datetime) -> datetime:
    try:
        return time if time.tzinfo else time.astimezone()
    except (OverflowError, ValueError):
        raise ValueError("must be a time that this machine knows") from None


class BudgetSection(Strict):
    """When a sweep or a trial stops by itself.

    Attributes:
        minutes: Training time over all starts; then trials stop at their next epoch, resumably.
        until: Date and time (local, unless it names its zone) by which it has ended, resumably.
        disk_gb: GB that the sweep's folder may hold.
        failures: Failed trials that are put up with.
        restarts: How often a trial goes on after its process died; then it has failed.
    """

    minutes: AboveZero | None = None
    until: Annotated[datetime, AfterValidator(_with_zone)] | None = None
    disk_gb: AboveZero | None = 5.0
    failures: Annotated[int, Field(ge=0)] = 3
    restarts: Annotated[int, Field(ge=0)] = 3


class ResourcesSection(Strict):
    """What one trial holds, and how many train at once.

    Attributes:
        workers_per_trial: Processes that train one model together (DDP), on one node or several.
        cpus_per_worker: Also each worker's torch threads.
        gpus_per_worker: A share below 1 only where a trial has one worker.
        concurrent_trials: ``auto``: as many as fit.
        start_timeout_minutes: After these a process that has found no place is given up.
    """

    workers_per_trial: Positive = 1
    cpus_per_worker: Positive = 1
    gpus_per_worker: NonNegative = 0.0
    concurrent_trials: Positive | Literal["auto"] = "auto"
    start_timeout_minutes: AboveZero = 15.0

    @field_validator("gpus_per_worker")
    @classmethod
    def _ray_can_share(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("must be a whole number, or a share below 1")
        return value

    @field_validator("concurrent_trials", mode="before")
    @classmethod
    def _auto_or_count(cls, value: Any) -> Any:
        # Before the union, which would report two errors for one mistake.
        if value == "auto" or (type(value) is int and value >= 1):
            return value
        raise ValueError("must be auto or a whole number above 0")

    @model_validator(mode="after")
    def _workers_have_whole_gpus(self) -> "ResourcesSection":
        if self.workers_per_trial > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"with workers_per_trial = {self.workers_per_trial} each worker needs a whole GPU "
                f"or none, not gpus_per_worker = {self.gpus_per_worker:g}: NCCL joins no two on one"
            )
        return self


class CompareSection(Strict):
    """What is compared.

    Attributes:
        by: Paths whose every value gets a study of its own and an equal share of the trials.
        seeds: With how many new seeds the best config of each is trained again, unpruned.
    """

    by: tuple[str, ...] = ()
    seeds: Annotated[int, Field(ge=0)] = 0

    @field_validator("by")
    @classmethod
    def _once(cls, by: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(by)) < len(by):
            raise ValueError("names one path twice: keep one")
        return by

    @model_validator(mode="after")
    def _seeds_of_something(self) -> "CompareSection":
        if self.seeds and not self.by:
            raise ValueError("seeds needs compare.by: name what is compared")
        return self


class RefitSection(Strict):
    """The fusion's members trained anew at the end, each fold held out once.

    Attributes:
        folds: 0 for none. Training and validation videos are cut into so many, by subject.
    """

    folds: Annotated[int, AfterValidator(_none_or_enough)] = 0


class FusionSection(Strict):
    """How trials are fused, for each task on its own.

    Attributes:
        method: ``greedy`` choice with replacement; the mean of the ``top_k`` best, with the best
            k; the ``best_single`` trial of each task; ``score_weighted`` mean.
        steps: The most members of a task.
        postprocess: What is then chosen on ``select`` and done to the mean. Smoothing is not among
            it by default: it does not pay behind a temporal encoder (benchmarks/mechanisms.py).
    """

    method: Literal["greedy", "top_k", "best_single", "score_weighted"] = "greedy"
    steps: Positive = 25
    postprocess: tuple[Literal["smoothing", "bias", "thresholds"], ...] = ("bias", "thresholds")
