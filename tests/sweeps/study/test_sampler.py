import os
import subprocess
import sys
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from sweeps.study import sampler
from sweeps.study.journal import JOURNAL, Journal
from sweeps.study.sampler import RecentStudy, learn, make_sampler, startup_trials

SAMPLE_TWENTY = """
import optuna
from sweeps.study.sampler import make_sampler
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(direction="maximize")
for number in range(20):
    study.sampler = make_sampler("tpe", 3, number, startup=4)
    trial = study.ask()
    encoder = trial.suggest_categorical("encoder", ["gru", "lstm", "transformer"])
    value = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    if encoder != "lstm":
        value += trial.suggest_int(f"encoder={encoder}/encoder.layers", 1, 4)
    study.tell(trial, value)
print([t.params for t in study.trials])
"""


def sample_in_a_process(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", SAMPLE_TWENTY]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_trials_do_not_depend_on_python_s_hashing() -> None:
    first = sample_in_a_process("1")
    assert first.count("lr") == 20
    assert first == sample_in_a_process("2")


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_a_sampler_follows_from_seed_and_number(kind: str) -> None:
    def draw(seed: int, number: int) -> float:
        study = optuna.create_study(sampler=make_sampler(kind, seed, number, startup=4))
        return study.ask().suggest_float("x", 0.0, 1.0)

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(1, 2), draw(1, 3), draw(2, 2), draw(2, 1)}) == 4


def test_samplers_are_made_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(make_sampler("tpe", 0, 0, startup=4), TPESampler)
        assert isinstance(make_sampler("random", 0, 0, startup=4), RandomSampler)


@pytest.mark.parametrize(
    ("share", "startup"), [(1, 4), (6, 4), (18, 4), (24, 6), (40, 10), (5000, 10)]
)
def test_startup_trials_are_a_quarter_of_the_share_within_bounds(share: int, startup: int) -> None:
    assert startup_trials(share) == startup


def finished_study() -> optuna.Study:
    """Return a study of twelve finished trials; `layers` exists under one of two encoders."""
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    for _ in range(12):
        trial = study.ask()
        value = trial.suggest_float("lr", 0.0, 1.0)
        if trial.suggest_categorical("encoder", ["gru", "lstm"]) == "gru":
            value += trial.suggest_int("layers", 1, 4)
        study.tell(trial, value)
    return study


def test_tpe_models_parameters_under_a_choice() -> None:
    study = finished_study()
    space = make_sampler("tpe", 0, 12, startup=4).infer_relative_search_space(
        study, study.ask()._cached_frozen_trial
    )
    assert set(space) == {"lr", "encoder", "layers"}


def test_tpe_draws_away_from_running_trials() -> None:
    def draw() -> float:
        study.sampler = make_sampler("tpe", 0, 12, startup=4)
        return study.ask().suggest_float("lr", 0.0, 1.0)

    study = finished_study()
    first = draw()
    second = draw()  # the same random stream, but the first trial is still running
    assert second != first
    study = finished_study()
    assert draw() == first


def test_tpe_learns_from_the_last_finished_trials_added_in_any_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sampler, "FIT_TRIALS", 6)
    study = finished_study()
    study.tell(study.ask(), state=TrialState.FAIL)
    study.ask()
    for order in (study.trials, study.trials[::-1], study.trials[3:] + study.trials[:3]):
        kept: list[FrozenTrial] = []
        for trial in order:
            learn(kept, trial)
        assert [trial.number for trial in kept] == [6, 7, 8, 9, 10, 11]


def test_tpe_draws_as_from_a_study_of_the_shown_trials_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    storage = Journal(tmp_path / JOURNAL)
    full = optuna.create_study(storage=storage, study_name="full")
    full.ask().suggest_float("lr", 0.0, 1.0)  # the first trial, which is still running
    full.add_trials(finished_study().trials)
    shown = [full.trials[number] for number in (0, 7, 8, 9, 10, 11, 12)]
    recent = optuna.create_study(storage=storage, study_name="recent")
    recent.add_trials(shown)

    def draw(study: optuna.Study) -> dict[str, object]:
        trial = storage.draft(study, {})
        trial.suggest_float("lr", 0.0, 1.0)
        if trial.suggest_categorical("encoder", ["gru", "lstm"]) == "gru":
            trial.suggest_int("layers", 1, 4)
        return trial.params

    different = 0
    for number in range(5):

        def tpe(number: int = number) -> optuna.samplers.BaseSampler:
            return make_sampler("tpe", 0, number, startup=4)

        recent.sampler, full.sampler = tpe(), tpe()
        drawn = draw(RecentStudy("full", storage, tpe(), lambda: shown))
        assert drawn == draw(recent)
        different += drawn != draw(full)
    assert different == 5
