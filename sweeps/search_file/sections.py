"""Pydantic models of the sections of a search file, with their rules and defaults."""

import math
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from mtl.strict import AboveZero, NonNegative, Positive, Probability, Strict
from sweeps.search_file.ranges import DottedPath


class SearchSection(Strict):
    """Number of trials, sampler and objective of the search.

    Attributes:
        trials: Number of all trials, divided equally between the compared values.
        sampler: Optuna sampler that proposes the configs.
        metric: Objective to maximize: ``score`` for the sum of the scores of all trained and
            labelled tasks, or the name of one task for its score.
        confirm: Share of the validation videos that are held back for the final scores (split
            ``confirm``); choices are made on the others (split ``select``).
        seed: Seed of the sampler and of the division of the validation videos.
        first: Points of the search space that are known to be good; they are trained before other
            trials. A point is a mapping, config key (such as ``encoder``) -> value. The sampler
            draws the keys that it does not name.
    """

    trials: Positive = 18
    sampler: Literal["tpe", "random"] = "tpe"
    metric: Literal["score", "valence", "arousal", "expression", "action_units"] = "score"
    confirm: Probability = 0.5
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1234
    first: tuple[Annotated[dict[DottedPath, Any], Field(min_length=1)], ...] = ()


class PrunerSection(Strict):
    """Early stopping of trials with low scores (pruning).

    Attributes:
        kind: ``asha`` for successive halving, ``none`` for no pruning by score. Trials whose tasks
            have all collapsed (outputs nearly constant) are pruned with either.
        min_epochs: Epochs after which a trial may be stopped for the first time; later it may be
            stopped after ``min_epochs * reduction_factor ** k`` epochs for k = 1, 2, ...
        reduction_factor: At each of these epochs the best ``1 / reduction_factor`` of the trials
            continue.
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
    """Limits of time, disk space and failures, at which a sweep or a trial stops.

    The command that started a sweep also continues it after a stop.

    Attributes:
        minutes: Limit of the training time in minutes, summed over all starts of the sweep. When it
            is reached, each trial stops at the end of its epoch.
        until: Date and time by which the sweep ends, local time unless a time zone is given.
        disk_gb: Limit of the size of all trials that have ended, in GB; ``auto`` for what the kept
            weights and the predictions need at most, None for no limit. If the limit is reached or
            the disk is full, the weights of the trials with the lowest ranks are removed first.
        failures: Number of failed trials that the sweep tolerates.
        restarts: Number of times that a trial continues after its process died. After one more
            death the trial counts as failed.
    """

    minutes: AboveZero | None = None
    until: Annotated[datetime, AfterValidator(_with_zone)] | None = None
    disk_gb: AboveZero | Literal["auto"] | None = "auto"
    failures: Annotated[int, Field(ge=0)] = 3
    restarts: Annotated[int, Field(ge=0)] = 3

    @field_validator("disk_gb", mode="before")
    @classmethod
    def _auto_or_size(cls, value: Any) -> Any:
        # Checked before the union of types, which would report two errors for one mistake.
        if value in ("auto", None) or (type(value) in (int, float) and 0 < value < math.inf):
            return value
        raise ValueError("must be auto, a number of GB above 0, or null for no limit")


class ResourcesSection(Strict):
    """Workers, CPUs and GPUs of a trial, and the number of trials that train at the same time.

    Attributes:
        workers_per_trial: Number of processes (DDP workers) that train one model together, on one
            node or several.
        cpus_per_worker: CPUs of each worker, and its number of torch threads.
        gpus_per_worker: GPUs of each worker; a fraction below 1 is allowed for one worker per
            trial.
        concurrent_trials: Number of trials that train at the same time, or ``auto`` for as many as
            fit on the cluster.
        start_timeout_minutes: Longest wait of a worker process for free CPUs and GPUs at its start.
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
    """Comparison of the values of some config keys, such as several encoders, in one sweep.

    Attributes:
        by: Config keys in ``space``, such as ``encoder``. Each combination of their values has its
            own Optuna study and an equal share of the trials.
        seeds: Number of other seeds with which the best config of each Optuna study is trained
            again, without pruning.
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
    """Training of the fused trials again on folds of the videos, at the end of a sweep (refit).

    Attributes:
        folds: Number of folds of the training and validation videos, divided by subject. Each fold
            is held out once. 0 for no refit.
    """

    folds: Annotated[int, AfterValidator(_none_or_enough)] = 0


class FusionSection(Strict):
    """Fusion: averaging of several trials' predictions, for each task separately.

    Attributes:
        method: ``greedy`` for greedy selection of trials with replacement, ``top_k`` for the mean
            of the k best trials with the best k, ``best_single`` for the best trial alone,
            ``score_weighted`` for the mean of trials weighted by their scores.
        steps: Largest number of trials in the mean of one task.
        postprocess: Post-processing of the mean. Its parameters are chosen on validation videos
            (split ``select``). Smoothing is not a default, since it does not improve the scores of
            models with a temporal encoder (benchmarks/mechanisms.py).
    """

    method: Literal["greedy", "top_k", "best_single", "score_weighted"] = "greedy"
    steps: Positive = 25
    postprocess: tuple[Literal["smoothing", "bias", "thresholds"], ...] = ("bias", "thresholds")
