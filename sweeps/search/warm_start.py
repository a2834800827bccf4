"""Warm start: a sweep takes over the finished trials of an earlier sweep (``--from RUN``).

A trial is taken over if this sweep could train it too, that is, if its signature (hash of config
and dataset) occurs in this sweep's search space. The trial is recorded in an Optuna study of this
sweep, so that the sampler learns from it. If its weights are still kept, its folder is copied too,
so that it can be fused. Of a sweep on other data only the best configs are taken
(``sweeps.search.earlier_points``).
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from mtl.dataset import Dataset
from mtl.errors import InputError
from sweeps.planning.compose import compose, signature
from sweeps.planning.plan import Plan
from sweeps.planning.space import Space
from sweeps.search_file import SearchFile, load
from sweeps.search_file.ranges import optuna_value
from sweeps.storage.recorded_start import read_start
from sweeps.storage.run_folder import SPACE
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study import SweepStudy
from sweeps.study.journal import JOURNAL, read_journal
from sweeps.study.record import REQUIRED

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
MUST_AGREE = {
    "confirm": "its trials were selected on videos that are in confirm here",
    "seed": "its trials were selected on videos that are in confirm here",
    "metric": "its objective cannot be compared with this one",
}
"""Keys of the section ``search`` that must have equal values in both sweeps, with the reason."""


@dataclass(frozen=True)
class EarlierSweep:
    """Finished trials of an earlier sweep.

    Attributes:
        folder: The earlier sweep's run folder.
        trials: Finished trials that have predictions, as pairs of the Optuna study's name and the
            trial.
        compared: For each study's name, a dict of the compared values of the study (such as one
            encoder) by config key.
        same_data: True if the earlier sweep was trained on this sweep's dataset.
    """

    folder: Path
    trials: tuple[tuple[str, FrozenTrial], ...]
    compared: Mapping[str, Mapping[str, Any]]
    same_data: bool


def read_earlier(
    folder: Path, file: SearchFile, dataset: Dataset, this_folder: Path
) -> EarlierSweep:
    """Read the finished trials of an earlier sweep, which may still be running.

    Its run folder is not changed.

    Args:
        folder: The earlier sweep's run folder.
        file: This sweep's search file.
        dataset: This sweep's dataset.
        this_folder: This sweep's run folder.

    Raises:
        InputError: If the folder holds no sweep, or is this sweep's own folder, or a file in it is
            damaged, or if the earlier sweep has the same dataset but another objective or division
            of the validation videos.
    """
    if not (folder / SPACE).is_file() or not (folder / JOURNAL).is_file():
        raise InputError(f"--from {folder}: it is no sweep's folder: name one under runs/")
    if folder.resolve() == this_folder.resolve():
        raise InputError(f"--from {folder}: it is this sweep's own folder: leave --from out")
    other = load(folder / SPACE)
    same_data = read_start(folder).dataset == dataset.hash
    if same_data:
        _check_agreement(folder, other, file)
    space = Space(other)
    combinations = space.comparisons()
    names = [f"{other.name}/{space.label(c)}" if c else other.name for c in combinations]
    compared = dict(zip(names, combinations, strict=True))
    return EarlierSweep(folder, tuple(_finished(folder, compared)), compared, same_data)


def take_over(earlier: EarlierSweep, plan: Plan, study: SweepStudy, folder: Path) -> str:
    """Take over the earlier sweep's finished trials that this sweep has not, but could train.

    Args:
        earlier: Finished trials of the earlier sweep.
        plan: This sweep's plan, which holds the search space.
        study: This sweep's Optuna studies, which record the trials.
        folder: This sweep's run folder, into which trial folders are copied.

    Returns:
        A sentence for the user with the number of trials taken over.
    """
    taken = known = 0
    combinations = dict(zip(study.names(), plan.space.comparisons(), strict=True))
    for name, trial in earlier.trials:
        trial_signature = trial.user_attrs["signature"]
        if study.record.knows(trial_signature):
            known += 1
            continue
        for study_name, combination in combinations.items():
            params = {**trial.params, **_optuna_values(earlier.compared[name])}
            overrides, found, point = _point_with(plan, combination, params)
            if point and found == trial_signature:
                source = TrialFolder.in_run(earlier.folder, trial_signature)
                if source.has_best_weights:  # without them it could be fused, but not exported
                    source.copy_to(folder)
                origin = f"{earlier.folder.name}: {name} {trial.number}"
                study.record.adopt(study_name, trial, point, overrides, origin)
                taken += 1
                break
    outside = len(earlier.trials) - taken - known
    return (
        f"{taken} of {len(earlier.trials)} finished trials of {earlier.folder} taken over"
        + (f", {known} are in this sweep already" if known else "")
        + (f", {outside} are outside this space" if outside else "")
    )


def _check_agreement(folder: Path, other: SearchFile, file: SearchFile) -> None:
    """Raise InputError if the scores of an earlier sweep cannot be compared with this sweep's."""
    for key, reason in MUST_AGREE.items():
        earlier, this = getattr(other.search, key), getattr(file.search, key)
        if earlier != this:
            raise InputError(
                f"--from {folder}: search.{key} is {earlier} there and {this} here: {reason}; set "
                f"search.{key}={earlier}"
            )


def _finished(folder: Path, compared: Mapping[str, Any]) -> list[tuple[str, FrozenTrial]]:
    """Return the finished trials of an earlier sweep that have predictions.

    Args:
        folder: The earlier sweep's run folder.
        compared: Names of the Optuna studies to read, as keys.

    Returns:
        Pairs of the study's name and the trial.
    """
    storage = read_journal(folder / JOURNAL, REQUIRED)
    return [
        (name, trial)
        for name in optuna.get_all_study_names(storage)
        if name in compared
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials()
        if trial.state in FINISHED
        and "twin_of" not in trial.user_attrs
        and TrialFolder.in_run(folder, trial.user_attrs["signature"]).has_predictions
    ]


def _optuna_values(combination: Mapping[str, Any]) -> dict[str, Any]:
    return {path: optuna_value(value) for path, value in combination.items()}


def _point_with(
    plan: Plan, combination: Mapping[str, Any], params: Mapping[str, Any]
) -> tuple[list[str], str, FixedTrial | None]:
    """Return the config of given parameters of the search space, and an Optuna trial with them.

    Args:
        plan: This sweep's plan, which holds the search space.
        combination: Compared values of one of this sweep's studies, such as one encoder, by config
            key.
        params: Optuna parameters of a trial of the earlier sweep, and the compared values of the
            earlier study, by config key.

    Returns:
        Three values: the overrides that give the trial's config in this sweep, the signature (hash
        of config and dataset), and an Optuna trial with these parameters. An empty list, an empty
        text and None if the parameters are outside the space or give no config.
    """
    trial = FixedTrial(dict(params))
    with warnings.catch_warnings():
        # Optuna only warns about a value outside a range.
        warnings.simplefilter("error", UserWarning)
        try:
            overrides = plan.space.sample(trial, combination)
            return overrides, signature(compose(overrides), plan.dataset.hash), trial
        except (ValueError, UserWarning):  # InputError is a ValueError
            return [], "", None
