"""Trials that are trained once more: their slot was lost, or they failed and are retried."""

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweeps.study import Proposal, SweepStudy
from sweeps.study.journal import JOURNAL
from tests.support.fake_sweep import COMPARED, Pruner, finish, opened, records, train

UNPRUNED: dict[str, Any] = {"pruner": Pruner(kind="none"), "sampler": "random"}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def always_the_same(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
    return [f"head={trial.suggest_categorical('head', ['a'])}"]


def fail(study: SweepStudy, proposal: Proposal, reason: str = "out of memory") -> None:
    study.record.report(proposal.study, proposal.number, 1, 0.5)
    study.record.tell(proposal.study, proposal.number, TrialState.FAIL, reason, {"seconds": 1})


def asked(study: SweepStudy) -> Proposal:
    proposal = study.ask()
    assert proposal is not None
    return proposal


# A slot was lost


def test_what_is_put_back_is_handed_out_next_and_goes_on(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=4, **UNPRUNED)) as study:
        first, second = asked(study), asked(study)
        study.record.report("demo", 0, 1, 0.25)
        before = (tmp_path / JOURNAL).read_bytes()
        study.record.put_back("demo", 0)
        study.record.put_back("demo", 1)
        assert not study.done
        assert study.record.counts() == {"RUNNING": 2}
        again = [study.ask(), study.ask()]
        assert again == [second, Proposal(**{**vars(first), "reported": {1: 0.25}})]
        assert (tmp_path / JOURNAL).read_bytes() == before
        assert asked(study).number == 2


def test_a_stopped_trial_that_is_put_back_is_handed_out_to_end(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=2)) as study:
        for number, value in ((0, 0.5), (1, 0.1)):
            assert study.ask()
            assert study.record.report("demo", number, 1, value) == (number == 1)
        study.record.put_back("demo", 1)
        assert asked(study).stopped


def test_what_has_ended_is_not_put_back(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=1, **UNPRUNED)) as study:
        finish(study)
        study.record.put_back("demo", 0)
        assert study.ask() is None
        assert study.done


# Failed trials


def test_a_failed_trial_is_trained_again_as_one_of_its_own(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=2, **UNPRUNED)) as study:
        failed = asked(study)
        fail(study, failed)
        finish(study)
        assert study.done
        assert study.record.retry_failed() == 1
        assert not study.done
        assert study.record.ended() == 1
        assert study.record.failures() == []
        assert study.record.counts() == {"COMPLETE": 1, "RUNNING": 1}
        retry = asked(study)
        assert retry == Proposal("demo", 2, failed.overrides, failed.signature, {})
        train(study, retry)
        assert study.done
        assert study.record.ended() == 2
        assert study.record.counts() == {"COMPLETE": 2}
        old, _, new = study.record.trials()["demo"]
    assert (old.state, new.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert (old.params, old.distributions) == (new.params, new.distributions)
    assert new.user_attrs == {
        "overrides": list(failed.overrides),
        "signature": failed.signature,
        "retry_of": "demo 0",
        "scores": {"p": 1.0},
        "seconds": 3,
    }


def test_a_retry_is_one_record(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=3, **UNPRUNED, **COMPARED)) as study:
        for _ in range(3):
            fail(study, asked(study))
        before = len(records(tmp_path))
        assert study.record.retry_failed() == 3
        assert len(records(tmp_path)) == before + 3


def test_what_fails_again_is_retried_when_asked_again(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=1, **UNPRUNED)) as study:
        fail(study, asked(study))
        for attempt in (1, 2):
            assert study.record.retry_failed() == 1
            assert study.record.retry_failed() == 0  # it runs
            retry = asked(study)
            assert study.ask() is None
            fail(study, retry, f"again {attempt}")
            [failed] = study.record.failures()
            assert failed.user_attrs["reason"] == f"again {attempt}"
            assert failed.user_attrs["retry_of"] == f"demo {attempt - 1}"
            assert study.record.counts() == {"FAIL": 1}
            assert study.done


def test_a_restart_goes_on_with_retries_before_new_trials(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=3, **UNPRUNED)) as study:
        for _ in range(2):
            fail(study, asked(study))
        left = asked(study)
        assert study.record.retry_failed() == 2
        study.record.report("demo", asked(study).number, 1, 0.5)
    with closing(opened(tmp_path, trials=4, **UNPRUNED)) as study:
        assert study.record.retry_failed() == 0
        assert study.record.failures() == []
        assert study.record.ended() == 0
        handed = [asked(study) for _ in range(4)]
        assert study.ask() is None
    assert [proposal.number for proposal in handed] == [left.number, 3, 4, 5]
    assert [proposal.reported for proposal in handed] == [{}, {1: 0.5}, {}, {}]


@pytest.mark.parametrize("restarted", [False, True])
def test_retries_take_no_share_and_no_seed(restarted: bool, tmp_path: Path) -> None:
    """New trials are those of a sweep in which nothing failed."""
    with closing(opened(tmp_path / "smooth", trials=7, **UNPRUNED, **COMPARED)) as study:
        smooth = [proposal.overrides for proposal in finish(study)]
    study = opened(tmp_path / "failed", trials=7, **UNPRUNED, **COMPARED)
    overrides = []
    for _ in range(4):
        proposal = asked(study)
        overrides.append(proposal.overrides)
        fail(study, proposal)
    assert study.record.retry_failed() == 4
    if restarted:
        study.close()
        study = opened(tmp_path / "failed", trials=7, **UNPRUNED, **COMPARED)
    handed = [proposal.overrides for proposal in finish(study)]
    assert handed[:4] == overrides
    assert [*overrides, *handed[4:]] == smooth
    assert study.done
    assert study.record.ended() == 7
    study.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_twins_of_a_failed_trial_count_as_its_retry(restarted: bool, tmp_path: Path) -> None:
    space: dict[str, Any] = {"sample": always_the_same, **UNPRUNED}
    study = opened(tmp_path, trials=3, **space)
    first = asked(study)
    assert study.ask() is None
    fail(study, first)
    assert study.record.counts() == {"FAIL": 3}
    assert len(study.record.failures()) == 1
    assert study.record.retry_failed() == 1
    if restarted:
        study.close()
        study = opened(tmp_path, trials=3, **space)
    assert study.record.counts() == {"RUNNING": 3}
    assert study.record.ended() == 0
    train(study, asked(study))
    assert study.record.counts() == {"COMPLETE": 3}
    assert study.record.failures() == []
    assert study.done
    study.close()
    with closing(opened(tmp_path, trials=4, **space)) as study:  # a later one is the retry's twin
        assert study.ask() is None
        assert study.done
        trials = study.record.trials()["demo"]
    assert [trial.state.name for trial in trials] == ["FAIL"] * 3 + ["COMPLETE"] * 2
    assert [trial.user_attrs.get("twin_of") for trial in trials] == [
        None,
        "demo 0",
        "demo 0",
        None,
        "demo 3",
    ]


def test_a_failed_trial_in_training_again_has_not_ended(tmp_path):
    """Otherwise the next start would count it as failed and remove its weights."""
    with closing(opened(tmp_path, trials=2)) as study:
        for state in (TrialState.FAIL, TrialState.COMPLETE):
            proposal = study.ask()
            study.record.report(proposal.study, proposal.number, 1, 0.5)
            study.record.tell(proposal.study, proposal.number, state, "out of memory")
        failed, complete = (
            trial.user_attrs["signature"] for trial in study.record.trials()["demo"]
        )
        assert study.record.outcomes() == {failed: True, complete: False}
        study.record.retry_failed()
        again = study.ask()
        assert again.signature == failed
        assert study.record.outcomes() == {complete: False}
        study.record.report(again.study, again.number, 1, 0.5)
        study.record.tell(again.study, again.number, TrialState.COMPLETE)
        assert study.record.outcomes() == {failed: False, complete: False}
