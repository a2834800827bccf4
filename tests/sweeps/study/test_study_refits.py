"""Refits: after all other trials, each fused trial is trained again with each fold held out."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sweeps.study import Refit, SweepStudy
from tests.support.fake_sweep import (
    COMPARED,
    Killed,
    finish,
    killed_after,
    opened,
    records,
    run,
    train,
)

FOLDS = 3


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Fusion:
    """Stand-in for the fusion: its only member is the first trial, and it counts its calls."""

    def __init__(self) -> None:
        self.calls, self.study = 0, None

    def __call__(self) -> list[Refit]:
        self.calls += 1
        assert isinstance(self.study, SweepStudy)
        first = next(iter(self.study.record.trials().values()))[0].user_attrs["signature"]
        return [Refit(first, fold, FOLDS) for fold in range(FOLDS)]


def open_with_refits(folder: Path, **changed: Any) -> tuple[SweepStudy, Fusion]:
    fusion = Fusion()
    study = opened(folder, **{"trials": 4, "folds": FOLDS, **changed}, refits=fusion)
    fusion.study = study
    return study, fusion


def test_refits_come_last_once_for_each_fold_and_unpruned(tmp_path: Path) -> None:
    study, fusion = open_with_refits(tmp_path)
    with closing(study):
        proposals = finish(study)
        assert study.done
        assert study.record.ended() == study.planned == 4 + FOLDS
        assert (study.most_trials, study.refits) == (4, FOLDS)
        trials = study.record.trials()
    assert fusion.calls == 1
    member = trials["demo"][0]
    signature = member.user_attrs["signature"]
    assert [p.study for p in proposals] == ["demo"] * 4 + ["demo 3 folds"] * FOLDS
    assert [p.fold for p in proposals] == [None] * 4 + list(range(FOLDS))
    assert [p.unpruned for p in proposals] == [False] * 4 + [True] * FOLDS
    assert [p.signature for p in proposals[4:]] == [f"{signature}.fold{k}of3" for k in range(FOLDS)]
    for trial in trials["demo 3 folds"]:
        assert trial.state == TrialState.COMPLETE
        assert trial.params == member.params
        assert trial.user_attrs["overrides"] == member.user_attrs["overrides"]
        assert trial.user_attrs["fold_of"] == signature
        assert "twin_of" not in trial.user_attrs


def test_refits_wait_for_running_trials(tmp_path: Path) -> None:
    study, fusion = open_with_refits(tmp_path, trials=2)
    with closing(study):
        first, second = study.ask(), study.ask()
        study.record.tell(second.study, second.number, TrialState.FAIL, "it broke")
        assert study.ask() is None
        assert not study.done
        assert fusion.calls == 0
        study.record.report(first.study, first.number, 1, 0.5)
        study.record.tell(first.study, first.number, TrialState.COMPLETE)
        assert study.ask().study == "demo 3 folds"


def test_members_of_refits_are_fixed_from_their_choice_on(tmp_path: Path) -> None:
    study, fusion = open_with_refits(tmp_path, trials=2)
    with closing(study):
        for _ in range(2):
            assert study.has_next()
            assert not study.refitting
            train(study, study.ask())
        assert study.has_next()  # this chooses the members
        assert study.refitting
        study.ask()
        assert fusion.calls == 1
    study, fusion = open_with_refits(tmp_path, trials=2)
    with closing(study):
        assert study.refitting  # the first refit is running
        finish(study)
        assert not study.has_next()
        assert study.done


def test_repeats_with_new_seeds_come_before_refits(tmp_path: Path) -> None:
    study, _ = open_with_refits(tmp_path, **{**COMPARED, "trials": 4, "seeds": 1})
    with closing(study):
        proposals = finish(study)
        assert study.done
        assert len(study.repeats()["demo/gru"]) == 1
    assert [p.study for p in proposals[-FOLDS:]] == ["demo 3 folds"] * FOLDS
    assert {p.study for p in proposals[4:-FOLDS]} == {"demo/gru seeds", "demo/transformer seeds"}


def test_refits_can_be_added_to_a_finished_sweep(tmp_path: Path) -> None:
    run(tmp_path, trials=4)
    for expected in (FOLDS, 0):
        study, _ = open_with_refits(tmp_path)
        with closing(study):
            assert study.done == (expected == 0)
            assert len(finish(study)) == expected
            assert study.done


def test_another_fused_trial_adds_its_refits(tmp_path: Path) -> None:
    study, _ = open_with_refits(tmp_path)
    with closing(study):
        finish(study)
        signatures = [t.user_attrs["signature"] for t in study.record.trials()["demo"]]
    other = next(s for s in signatures if s != signatures[0])
    study = opened(tmp_path, trials=4, folds=FOLDS, refits=lambda: [Refit(other, 0, FOLDS)])
    with closing(study):
        assert not study.done
        assert [p.signature for p in finish(study)] == [f"{other}.fold0of3"]


def test_refits_on_another_number_of_folds_are_not_continued(tmp_path: Path) -> None:
    study, _ = open_with_refits(tmp_path)
    with closing(study):
        assert [study.ask().fold for _ in range(4)] == [None] * 4
        for number in range(4):
            study.record.report("demo", number, 1, 0.5 + number)
            study.record.tell("demo", number, TrialState.COMPLETE)
        # A refit on 3 folds, which stays unfinished.
        member = study.ask().signature.partition(".")[0]
    refits = [Refit(member, fold, 4) for fold in range(4)]
    study = opened(tmp_path, trials=4, folds=4, refits=lambda: refits)
    with closing(study):
        proposals = finish(study)
        assert [p.signature for p in proposals] == [refit.signature for refit in refits]
        assert study.done
        assert sum(study.record.counts().values()) == 4 + 4


@pytest.mark.parametrize("torn", [False, True])
def test_a_sweep_killed_during_refits_ends_with_the_same_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    study, _ = open_with_refits(tmp_path / "undisturbed")
    with closing(study):
        finish(study)
    undisturbed = records(tmp_path / "undisturbed")
    for appends in range(20, 60, 3):
        folder = tmp_path / f"cut{appends}"
        study = None
        with killed_after(monkeypatch, appends, torn):
            try:
                study, _ = open_with_refits(folder)
                finish(study)
            except Killed:
                pass
            finally:
                if study:
                    study.close()
        study, _ = open_with_refits(folder)
        with closing(study):
            finish(study)
            assert study.done
            assert study.record.ended() == study.planned == 4 + FOLDS
        assert (study.most_trials, study.refits) == (4, FOLDS)
        assert len(records(folder)) == len(undisturbed)
