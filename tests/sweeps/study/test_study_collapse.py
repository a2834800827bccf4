"""Collapsed trials: pruned with a reason, by one record that is written before it acts."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sweeps.study.journal import JOURNAL
from tests.support.fake_sweep import (
    COLLAPSE,
    COMPARED,
    EPOCHS,
    Killed,
    Pruner,
    collapses,
    finish,
    killed_after,
    opened,
    records,
    sample_one_of_three,
)

NONE = Pruner(kind="none")


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("pruner", [NONE, Pruner()], ids=lambda pruner: pruner.kind)
def test_collapsed_trials_are_pruned_with_any_pruner_and_others_never(
    pruner: Pruner, tmp_path: Path
) -> None:
    with closing(opened(tmp_path, pruner=pruner, trials=20)) as study:
        finish(study, collapse=True)
        trials = study.record.trials()["demo"]
        assert study.record.failures() == []
    found = [t for t in trials if t.user_attrs.get("reason") == "collapsed"]
    for trial in found:
        assert trial.state == TrialState.PRUNED
        assert trial.last_step == COLLAPSE
        assert trial.user_attrs[f"decision:{COLLAPSE}"] == "collapsed"
        assert collapses(trial.user_attrs["overrides"])
    assert len(found) > 3
    for trial in trials:
        if trial not in found:
            assert trial.last_step < COLLAPSE or not collapses(trial.user_attrs["overrides"])
            assert "reason" not in trial.user_attrs
    states = {trial.state for trial in trials if trial not in found}
    assert states == {TrialState.COMPLETE} | (
        {TrialState.PRUNED} if pruner.kind == "asha" else set()
    )


def collapsed_at_2(tmp_path: Path, **changed: Any) -> Any:
    """Open a study whose only trial has reported one epoch; its second one will be a collapse."""
    study = opened(tmp_path, trials=1, pruner=NONE, **changed)
    assert study.ask()
    assert not study.record.report("demo", 0, 1, 0.2)
    return study


def test_the_decision_is_one_record_before_the_objective(tmp_path: Path) -> None:
    with closing(collapsed_at_2(tmp_path)) as study:
        before = len(records(tmp_path))
        assert study.record.report("demo", 0, 2, 0.3, collapsed=True)
        decision, value = records(tmp_path)[before:]
        assert decision["user_attr"] == {"decision:2": "collapsed"}
        assert (value["step"], value["intermediate_value"]) == (2, 0.3)
        size = (tmp_path / JOURNAL).stat().st_size
        assert study.record.report("demo", 0, 2, 9.0, collapsed=True)
        assert study.record.report("demo", 0, 3, 9.0, collapsed=True)
        assert (tmp_path / JOURNAL).stat().st_size == size


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_a_recorded_collapse_is_kept_after_a_kill_before_its_objective(
    again: bool, torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The epoch is reported again, and the trial is pruned even if it does not collapse again."""
    study = collapsed_at_2(tmp_path)
    with closing(study), pytest.raises(Killed), killed_after(monkeypatch, 1, torn):
        study.record.report("demo", 0, 2, 0.3, collapsed=True)
    with closing(opened(tmp_path, trials=1, pruner=NONE)) as study:
        proposal = study.ask()
        assert proposal is not None
        assert (proposal.stopped, proposal.reported) == (False, {1: 0.2})
        assert not study.record.report("demo", 0, 1, 0.2)
        assert study.record.report("demo", 0, 2, 0.3, collapsed=again)
        decisions = [r["user_attr"] for r in records(tmp_path) if "user_attr" in r]
        assert decisions == [{"decision:2": "collapsed"}]


def test_a_collapsed_trial_without_an_end_is_proposed_as_stopped(tmp_path: Path) -> None:
    with closing(collapsed_at_2(tmp_path)) as study:
        assert study.record.report("demo", 0, 2, 0.3, collapsed=True)
    with closing(opened(tmp_path, trials=1, pruner=NONE)) as study:
        proposal = study.ask()
        assert proposal is not None
        assert (proposal.stopped, proposal.reported) == (True, {1: 0.2, 2: 0.3})
        study.record.tell("demo", 0, TrialState.PRUNED, attributes={"collapsed_tasks": ["valence"]})
        trial = study.record.trials()["demo"][0]
        assert (trial.state, trial.user_attrs["reason"]) == (TrialState.PRUNED, "collapsed")
        assert trial.value == 0.3  # as that of each pruned trial: the last objective


def test_a_stop_before_the_decision_arrives_does_not_complete_a_collapsed_trial(
    tmp_path: Path,
) -> None:
    with closing(collapsed_at_2(tmp_path)) as study:
        assert study.record.report("demo", 0, 2, 0.3, collapsed=True)
        study.record.tell("demo", 0, TrialState.COMPLETE)
        trial = study.record.trials()["demo"][0]
        assert (trial.state, trial.user_attrs["reason"]) == (TrialState.PRUNED, "collapsed")


def test_a_collapsed_trial_that_fails_has_failed(tmp_path: Path) -> None:
    with closing(collapsed_at_2(tmp_path)) as study:
        assert study.record.report("demo", 0, 2, 0.3, collapsed=True)
        study.record.tell("demo", 0, TrialState.FAIL, "out of memory")
        assert [t.user_attrs["reason"] for t in study.record.failures()] == ["out of memory"]


def test_repeats_with_new_seeds_are_not_pruned_if_they_collapse(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=6, seeds=6, **COMPARED)) as study:
        finish(study, collapse=True)
        repeats = [trial for trials in study.repeats().values() for trial in trials]
    assert any(collapses(trial.user_attrs["overrides"]) for trial in repeats)
    for trial in repeats:
        assert (trial.state, trial.last_step) == (TrialState.COMPLETE, EPOCHS)
        assert not any(key.startswith(("decision", "reason")) for key in trial.user_attrs)


def test_twins_of_a_collapsed_trial_have_its_reason_and_tasks(tmp_path: Path) -> None:
    note = {"collapsed_tasks": ["valence"]}
    with closing(opened(tmp_path, trials=9, pruner=NONE, sample=sample_one_of_three)) as study:
        waiting = [study.ask() for _ in range(3)]
        for proposal in waiting:
            if proposal is not None:
                for epoch in (1, 2):
                    study.record.report("demo", proposal.number, epoch, 0.1, epoch == 2)
                study.record.tell("demo", proposal.number, TrialState.PRUNED, attributes=note)
        finish(study)
        trials = study.record.trials()["demo"]
    first = {t.user_attrs["signature"]: t for t in reversed(trials)}
    twins = [t for t in trials if "twin_of" in t.user_attrs]
    reasons = {t.user_attrs.get("reason") for t in twins}
    assert "collapsed" in reasons
    for twin in twins:
        trained = first[twin.user_attrs["signature"]]
        for key in ("reason", "collapsed_tasks"):
            assert twin.user_attrs.get(key) == trained.user_attrs.get(key)
