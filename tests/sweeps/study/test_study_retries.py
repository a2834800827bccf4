"""Trials that are trained again because their slot was lost or because they failed."""

import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from mtl.errors import InputError
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


def ask(study: SweepStudy) -> Proposal:
    proposal = study.ask()
    assert proposal is not None
    return proposal


# Lost slots


def test_a_trial_that_is_put_back_is_proposed_next_with_its_epochs(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=4, **UNPRUNED)) as study:
        first, second = ask(study), ask(study)
        study.record.report("demo", 0, 1, 0.25)
        before = (tmp_path / JOURNAL).read_bytes()
        study.record.put_back("demo", 0)
        study.record.put_back("demo", 1)
        assert not study.done
        assert study.record.counts() == {"RUNNING": 2}
        again = [study.ask(), study.ask()]
        assert again == [second, Proposal(**{**vars(first), "reported": {1: 0.25}})]
        assert (tmp_path / JOURNAL).read_bytes() == before
        assert ask(study).number == 2


def test_a_stopped_trial_that_is_put_back_is_proposed_as_stopped(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=2)) as study:
        for number, value in ((0, 0.5), (1, 0.1)):
            assert study.ask()
            assert study.record.report("demo", number, 1, value) == (number == 1)
        study.record.put_back("demo", 1)
        assert ask(study).stopped


def test_an_ended_trial_is_not_put_back(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=1, **UNPRUNED)) as study:
        finish(study)
        study.record.put_back("demo", 0)
        assert study.ask() is None
        assert study.done


# Failed trials


def test_a_failed_trial_is_retried_as_a_new_trial(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=2, **UNPRUNED)) as study:
        failed = ask(study)
        fail(study, failed)
        finish(study)
        assert study.done
        assert study.record.retry_failed() == 1
        assert not study.done
        assert study.record.ended() == 1
        assert study.record.failures() == []
        assert study.record.counts() == {"COMPLETE": 1, "RUNNING": 1}
        retry = ask(study)
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


def test_a_retry_is_written_as_one_record(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=3, **UNPRUNED, **COMPARED)) as study:
        for _ in range(3):
            fail(study, ask(study))
        before = len(records(tmp_path))
        assert study.record.retry_failed() == 3
        assert len(records(tmp_path)) == before + 3


def test_a_failed_retry_can_be_retried(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=1, **UNPRUNED)) as study:
        fail(study, ask(study))
        for attempt in (1, 2):
            assert study.record.retry_failed() == 1
            assert study.record.retry_failed() == 0  # the retry is running
            retry = ask(study)
            assert study.ask() is None
            fail(study, retry, f"again {attempt}")
            [failed] = study.record.failures()
            assert failed.user_attrs["reason"] == f"again {attempt}"
            assert failed.user_attrs["retry_of"] == f"demo {attempt - 1}"
            assert study.record.counts() == {"FAIL": 1}
            assert study.done


def test_a_restart_proposes_unfinished_trials_and_retries_before_new_ones(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=3, **UNPRUNED)) as study:
        for _ in range(2):
            fail(study, ask(study))
        unfinished = ask(study)
        assert study.record.retry_failed() == 2
        study.record.report("demo", ask(study).number, 1, 0.5)
    with closing(opened(tmp_path, trials=4, **UNPRUNED)) as study:
        assert study.record.retry_failed() == 0
        assert study.record.failures() == []
        assert study.record.ended() == 0
        proposals = [ask(study) for _ in range(4)]
        assert study.ask() is None
    assert [proposal.number for proposal in proposals] == [unfinished.number, 3, 4, 5]
    assert [proposal.reported for proposal in proposals] == [{}, {1: 0.5}, {}, {}]


@pytest.mark.parametrize("restarted", [False, True])
def test_retries_do_not_change_later_trials(restarted: bool, tmp_path: Path) -> None:
    """New trials are the same as in a sweep without failures."""
    with closing(opened(tmp_path / "without_failures", trials=7, **UNPRUNED, **COMPARED)) as study:
        without_failures = [proposal.overrides for proposal in finish(study)]
    study = opened(tmp_path / "failed", trials=7, **UNPRUNED, **COMPARED)
    overrides = []
    for _ in range(4):
        proposal = ask(study)
        overrides.append(proposal.overrides)
        fail(study, proposal)
    assert study.record.retry_failed() == 4
    if restarted:
        study.close()
        study = opened(tmp_path / "failed", trials=7, **UNPRUNED, **COMPARED)
    proposals = [proposal.overrides for proposal in finish(study)]
    assert proposals[:4] == overrides
    assert [*overrides, *proposals[4:]] == without_failures
    assert study.done
    assert study.record.ended() == 7
    study.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_twins_of_a_failed_trial_count_with_the_state_of_its_retry(
    restarted: bool, tmp_path: Path
) -> None:
    space: dict[str, Any] = {"sample": always_the_same, **UNPRUNED}
    study = opened(tmp_path, trials=3, **space)
    first = ask(study)
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
    train(study, ask(study))
    assert study.record.counts() == {"COMPLETE": 3}
    assert study.record.failures() == []
    assert study.done
    study.close()
    with closing(opened(tmp_path, trials=4, **space)) as study:  # trial 4 is a twin of the retry
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


def test_a_retry_of_a_trial_whose_failure_is_lost_is_refused(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=1, **UNPRUNED)) as study:
        fail(study, ask(study))
        study.record.retry_failed()
    path = tmp_path / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b'"op_code":6' not in line))
    fault = f"{JOURNAL}: trial 1 of study demo retries a trial that has not failed; restore"
    with pytest.raises(InputError, match=fault):
        opened(tmp_path, trials=1, **UNPRUNED)
