"""Once all else has ended, what is fused is trained again with each fold held out."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sweeps.study import Refit, SweepStudy
from tests.support.fake_sweep import COMPARED, Killed, finish, killed_after, opened, records, run

FOLDS = 3


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Fusion:
    """Uses a sweep's first trial; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked, self.study = 0, None

    def __call__(self) -> list[Refit]:
        self.asked += 1
        assert isinstance(self.study, SweepStudy)
        first = next(iter(self.study.record.trials().values()))[0].user_attrs["signature"]
        return [Refit(first, fold, FOLDS) for fold in range(FOLDS)]


def refitted(folder: Path, **changed: Any) -> tuple[SweepStudy, Fusion]:
    fusion = Fusion()
    study = opened(folder, **{"trials": 4, "folds": FOLDS, **changed}, refits=fusion)
    fusion.study = study
    return study, fusion


def test_the_folds_come_last_each_once_and_unpruned(tmp_path: Path) -> None:
    study, fusion = refitted(tmp_path)
    with closing(study):
        handed = finish(study)
        assert study.done
        assert study.record.ended() == study.planned == 4 + FOLDS
        trials = study.record.trials()
    assert fusion.asked == 1
    member = trials["demo"][0]
    signature = member.user_attrs["signature"]
    assert [p.study for p in handed] == ["demo"] * 4 + ["demo 3 folds"] * FOLDS
    assert [p.fold for p in handed] == [None] * 4 + list(range(FOLDS))
    assert [p.unpruned for p in handed] == [False] * 4 + [True] * FOLDS
    assert [p.signature for p in handed[4:]] == [f"{signature}.fold{k}of3" for k in range(FOLDS)]
    for trial in trials["demo 3 folds"]:
        assert trial.state == TrialState.COMPLETE
        assert trial.params == member.params
        assert trial.user_attrs["overrides"] == member.user_attrs["overrides"]
        assert trial.user_attrs["fold_of"] == signature
        assert "twin_of" not in trial.user_attrs


def test_they_wait_for_what_still_runs(tmp_path: Path) -> None:
    study, fusion = refitted(tmp_path, trials=2)
    with closing(study):
        first, second = study.ask(), study.ask()
        study.record.tell(second.study, second.number, TrialState.FAIL, "it broke")
        assert study.ask() is None
        assert not study.done
        assert fusion.asked == 0
        study.record.report(first.study, first.number, 1, 0.5)
        study.record.tell(first.study, first.number, TrialState.COMPLETE)
        assert study.ask().study == "demo 3 folds"


def test_new_seeds_of_what_is_compared_come_before(tmp_path: Path) -> None:
    study, _ = refitted(tmp_path, **{**COMPARED, "trials": 4, "seeds": 1})
    with closing(study):
        handed = finish(study)
        assert study.done
        assert len(study.repeats()["demo/gru"]) == 1
    assert [p.study for p in handed[-FOLDS:]] == ["demo 3 folds"] * FOLDS
    assert {p.study for p in handed[4:-FOLDS]} == {"demo/gru seeds", "demo/transformer seeds"}


def test_a_finished_sweep_may_be_asked_for_folds_later_and_then_has_them(tmp_path: Path) -> None:
    run(tmp_path, trials=4)
    for asked in (FOLDS, 0):
        study, _ = refitted(tmp_path)
        with closing(study):
            assert study.done == (asked == 0)
            assert len(finish(study)) == asked
            assert study.done


def test_another_choice_of_members_adds_its_folds(tmp_path: Path) -> None:
    study, _ = refitted(tmp_path)
    with closing(study):
        finish(study)
        signatures = [t.user_attrs["signature"] for t in study.record.trials()["demo"]]
    other = next(s for s in signatures if s != signatures[0])
    study = opened(tmp_path, trials=4, folds=FOLDS, refits=lambda: [Refit(other, 0, FOLDS)])
    with closing(study):
        assert not study.done
        assert [p.signature for p in finish(study)] == [f"{other}.fold0of3"]


def test_what_was_cut_into_another_number_of_folds_is_left_as_it_is(tmp_path: Path) -> None:
    study, _ = refitted(tmp_path)
    with closing(study):
        assert [study.ask().fold for _ in range(4)] == [None] * 4
        for number in range(4):
            study.record.report("demo", number, 1, 0.5 + number)
            study.record.tell("demo", number, TrialState.COMPLETE)
        member = study.ask().signature.partition(".")[0]  # of 3 folds, and left unfinished
    refits = [Refit(member, fold, 4) for fold in range(4)]
    study = opened(tmp_path, trials=4, folds=4, refits=lambda: refits)
    with closing(study):
        handed = finish(study)
        assert [p.signature for p in handed] == [refit.signature for refit in refits]
        assert study.done
        assert sum(study.record.counts().values()) == 4 + 4


@pytest.mark.parametrize("torn", [False, True])
def test_killed_at_any_record_it_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    study, _ = refitted(tmp_path / "whole")
    with closing(study):
        finish(study)
    whole = records(tmp_path / "whole")
    for appends in range(20, 60, 3):
        folder = tmp_path / f"cut{appends}"
        study = None
        with killed_after(monkeypatch, appends, torn):
            try:
                study, _ = refitted(folder)
                finish(study)
            except Killed:
                pass
            finally:
                if study:
                    study.close()
        study, _ = refitted(folder)
        with closing(study):
            finish(study)
            assert study.done
            assert study.record.ended() == study.planned == 4 + FOLDS
        assert len(records(folder)) == len(whole)
