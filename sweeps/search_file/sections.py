"""Sections of a search file, with their rules and defaults."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from mtl.strict import AboveZero, NonNegative, Positive, Probability, Strict


class SearchSection(Strict):
    """Number of trials, sampler and objective of the search.

    Attributes:
        trials: Number of trials in all, divided equally between the compared values.
        sampler: Optuna sampler that proposes the configs.
        metric: Objective: ``score``, the sum of the scores of all trained and labelled tasks, or
            the score of one task.
        confirm: Share of the validation videos in the part ``confirm``, on which nothing is
            selected.
        seed: Seed of the sampler and of the division of the validation videos.
    """

    trials: Positive = 18
    sampler: Literal["tpe", "random"] = "tpe"
    metric: Literal["score", "valence", "arousal", "expression", "action_units"] = "score"
    confirm: Probability = 0.5
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1234


class PrunerSection(Strict):
    """Early stopping of trials.

    Attributes:
        kind: ``asha`` for successive halving, or ``none``.
        min_epochs: Number of epochs at the first rung; rung k is at
            ``min_epochs * reduction_factor ** k`` epochs.
        reduction_factor: At each rung the best ``1 / reduction_factor`` of the trials continue.
    """

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
        raise ValueError("must be a time that this machine can convert to its time zone") from None


class BudgetSection(Strict):
    """Limits at which a sweep or a trial stops.

    A sweep that was stopped can be continued by the same command.

    Attributes:
        minutes: Limit of the training time in minutes, summed over all starts of the sweep; then
            each trial stops at its next epoch.
        until: Date and time by which the sweep ends, local time unless a time zone is given.
        disk_gb: Limit of the size of the run folder in GB.
        failures: Number of failed trials that the sweep tolerates.
        restarts: Number of times that a trial continues after its process died, before it counts
            as failed.
    """

    minutes: AboveZero | None = None
    until: Annotated[datetime, AfterValidator(_with_zone)] | None = None
    disk_gb: AboveZero | None = 5.0
    failures: Annotated[int, Field(ge=0)] = 3
    restarts: Annotated[int, Field(ge=0)] = 3


class ResourcesSection(Strict):
    """Workers, CPUs and GPUs of a trial, and the number of trials that train at the same time.

    Attributes:
        workers_per_trial: Number of processes that train one model together (DDP), on one node or
            several.
        cpus_per_worker: CPUs of each worker, and its number of torch threads.
        gpus_per_worker: GPUs of each worker; a fraction below 1 is allowed for one worker per
            trial.
        concurrent_trials: Number of trials that train at the same time, or ``auto`` for as many as
            fit on the cluster.
        start_timeout_minutes: Longest wait for free resources when a worker process starts.
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
        # Checked before the union of types, which would report two errors for one mistake.
        if value == "auto" or (type(value) is int and value >= 1):
            return value
        raise ValueError("must be auto or a whole number above 0")

    @model_validator(mode="after")
    def _workers_have_whole_gpus(self) -> "ResourcesSection":
        if self.workers_per_trial > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"with workers_per_trial = {self.workers_per_trial} each worker needs a whole GPU "
                f"or none, not gpus_per_worker = {self.gpus_per_worker:g}: NCCL cannot join two "
                "workers on one GPU"
            )
        return self


class CompareSection(Strict):
    """Values that the sweep compares.

    Attributes:
        by: Paths in ``space``; each combination of their values has its own study and an equal
            share of the trials.
        seeds: Number of new seeds with which the best config of each study is trained again,
            without pruning.
    """

    by: tuple[str, ...] = ()
    seeds: Annotated[int, Field(ge=0)] = 0

    @field_validator("by")
    @classmethod
    def _distinct(cls, by: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(by)) < len(by):
            raise ValueError("names one path twice: keep one")
        return by

    @model_validator(mode="after")
    def _seeds_of_something(self) -> "CompareSection":
        if self.seeds and not self.by:
            raise ValueError("seeds needs compare.by: name what is compared")
        return self


class RefitSection(Strict):
    """Training of the fusion's members on other folds, at the end of the sweep.

    Attributes:
        folds: Number of folds, of which each is held out once; 0 for no refit. Training and
            validation videos are divided into folds by subject.
    """

    folds: Annotated[int, AfterValidator(_none_or_enough)] = 0


class FusionSection(Strict):
    """Fusion of trials, for each task separately.

    Attributes:
        method: ``greedy``: greedy selection with replacement; ``top_k``: mean of the k best
            trials, with the best k; ``best_single``: the best trial; ``score_weighted``: mean
            weighted by the trials' scores.
        steps: Largest number of members of a task.
        postprocess: Post-processing of the mean, whose parameters are chosen on the part
            ``select``. Smoothing is not a default: behind a temporal encoder it brings nothing
            (benchmarks/mechanisms.py).
    """

    method: Literal["greedy", "top_k", "best_single", "score_weighted"] = "greedy"
    steps: Positive = 25
    postprocess: tuple[Literal["smoothing", "bias", "thresholds"], ...] = ("bias", "thresholds")
