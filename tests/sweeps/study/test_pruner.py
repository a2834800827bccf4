import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from sweeps.study.pruner import AsynchronousHalving, rungs


def stops_of_optuna(curves: np.ndarray, min_epochs: int, reduction_factor: int) -> list[int]:
    """Return the epoch at which Optuna stops each curve of (trials, epochs); 0 if it does not."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_epochs, reduction_factor)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    stops = []
    for curve in curves:
        trial, stopped = study.ask(), 0
        for epoch, value in enumerate(curve.tolist(), start=1):
            trial.report(value, epoch)
            if trial.should_prune():
                stopped = epoch
                break
        study.tell(trial, state=TrialState.PRUNED if stopped else TrialState.FAIL)
        stops.append(stopped)
    return stops


def stops_of_ours(curves: np.ndarray, min_epochs: int, reduction_factor: int) -> list[int]:
    """Return the epoch at which our pruner stops each curve; 0 if it does not."""
    pruner = AsynchronousHalving(min_epochs, reduction_factor)
    stops = []
    for curve in curves:
        stopped = 0
        for epoch, value in enumerate(curve.tolist(), start=1):
            pruner.add("s", epoch, value)
            if pruner.stops("s", epoch, value):
                stopped = epoch
                break
        stops.append(stopped)
    return stops


@pytest.mark.parametrize("reduction_factor", [2, 3, 4])
@pytest.mark.parametrize("min_epochs", [1, 2, 3])
@pytest.mark.parametrize("kind", ["continuous", "with ties", "with nan"])
def test_our_pruner_stops_trials_at_the_same_epochs_as_optuna_s(
    min_epochs: int, reduction_factor: int, kind: str
) -> None:
    generator = np.random.default_rng([min_epochs, reduction_factor])
    curves = np.cumsum(generator.random((60, 13)), axis=1)
    if kind == "with ties":
        curves = np.round(curves)
    if kind == "with nan":
        curves[generator.random(curves.shape) < 0.1] = math.nan
    ours = stops_of_ours(curves, min_epochs, reduction_factor)
    assert ours == stops_of_optuna(curves, min_epochs, reduction_factor)
    assert len(set(ours) - {0}) >= 2


def test_rungs_are_powers_of_the_reduction_factor_up_to_the_epochs() -> None:
    assert rungs(2, 3, 18) == (2, 6, 18)
    assert rungs(2, 3, 17) == (2, 6)
    assert rungs(5, 2, 4) == ()


def test_a_trial_stops_only_at_rungs_and_the_decision_is_repeatable() -> None:
    pruner = AsynchronousHalving(2, 2)
    for epoch in (1, 2, 3):
        pruner.add("s", epoch, 9.0)
        pruner.add("s", epoch, 0.0)
    assert not pruner.stops("s", 1, 0.0)
    assert pruner.stops("s", 2, 0.0)
    assert pruner.stops("s", 2, 0.0)
    assert not pruner.stops("s", 2, 9.0)
    assert not pruner.stops("s", 3, 0.0)


def test_trials_of_different_studies_are_not_compared() -> None:
    pruner = AsynchronousHalving(1, 2)
    pruner.add("s", 1, 9.0)
    pruner.add("t", 1, 0.0)
    assert not pruner.stops("t", 1, 0.0)


@pytest.mark.parametrize(("min_epochs", "reduction_factor"), [(0, 3), (1, 1)])
def test_settings_without_rungs_are_refused(min_epochs: int, reduction_factor: int) -> None:
    with pytest.raises(ValueError, match=f"min_epochs={min_epochs}.*={reduction_factor}"):
        AsynchronousHalving(min_epochs, reduction_factor)
