import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from mtl.errors import InputError
from sweeps.study import Proposal, SweepStudy, sampler
from sweeps.study.journal import JOURNAL, Journal
from tests.support.fake_sweep import (
    COMPARED,
    EPOCHS,
    Killed,
    Pruner,
    finish,
    killed_after,
    opened,
    records,
    run,
    sample,
    sample_one_of_three,
    train,
)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


# Proposals


def test_studies_are_served_in_turn_with_equal_shares(tmp_path: Path) -> None:
    labels = ["gru", "transformer"]
    with closing(opened(tmp_path, trials=7, **COMPARED)) as study:
        proposals = [study.ask() for _ in range(7)]
        assert study.ask() is None
        assert [(p.study, p.number) for p in proposals if p] == [
            (f"demo/{label}", number) for number in range(4) for label in labels
        ][:7]
        assert all(p.overrides[0] == f"encoder={p.study[5:]}" for p in proposals if p)
        assert not any("encoder" in t.params for ts in study.record.trials().values() for t in ts)


def test_compared_studies_start_from_the_same_points(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=4, **COMPARED)) as study:
        finish(study)
        first, second = study.record.trials().values()
    assert [t.params["optim.lr"] for t in first] == [t.params["optim.lr"] for t in second]


def test_the_sampler_sees_running_and_recently_finished_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler, "FIT_TRIALS", 3)
    shown = []

    def look(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
        shown.append([(t.number, t.state.name) for t in trial.study.trials])
        return sample(trial, chosen)

    unpruned = {"pruner": Pruner(kind="none"), "sample": look, **COMPARED}
    with closing(opened(tmp_path, trials=14, **unpruned)) as study:
        proposals = [study.ask() for _ in range(12)]
        for proposal in proposals[2:]:
            assert proposal is not None
            train(study, proposal)
        assert study.ask()
        recent = [(number, "COMPLETE") for number in (3, 4, 5)]
        assert shown[-1] == [(0, "RUNNING"), *recent]
    with closing(opened(tmp_path, trials=15, **unpruned)) as study:
        assert [p.number for p in (study.ask(), study.ask(), study.ask()) if p] == [0, 0, 6]
        assert study.ask()  # in the other study
        assert shown[-1] == [(0, "RUNNING"), *recent]
        assert study.ask()
        assert shown[-1] == [(0, "RUNNING"), *recent, (6, "RUNNING")]


def test_more_trials_extend_a_finished_sweep_and_fewer_change_nothing(
    tmp_path: Path,
) -> None:
    run(tmp_path, trials=6)
    size = (tmp_path / JOURNAL).stat().st_size
    for fewer in (6, 4):
        with closing(opened(tmp_path, trials=fewer)) as study:
            assert study.ask() is None
            assert study.done
    assert (tmp_path / JOURNAL).stat().st_size == size
    with closing(opened(tmp_path, trials=9)) as study:
        assert not study.done
        assert [p.number for p in finish(study)] == [6, 7, 8]
    assert run(tmp_path, trials=9) == run(tmp_path.with_name("at_once"), trials=9)


def test_running_trials_are_proposed_first_with_their_recorded_epochs(tmp_path: Path) -> None:
    none = Pruner(kind="none")
    with closing(opened(tmp_path, trials=4, pruner=none)) as study:
        unfinished = [study.ask(), study.ask()]
        assert unfinished[0] is not None
        study.record.report("demo", 0, 1, 0.25)
        study.record.report("demo", 0, 2, 0.5)
        assert study.record.counts() == {"RUNNING": 2}
    with closing(opened(tmp_path, trials=1, pruner=none)) as study:
        again = [study.ask(), study.ask(), study.ask()]
    continued = Proposal(**{**vars(unfinished[0]), "reported": {1: 0.25, 2: 0.5}})
    assert again == [continued, unfinished[1], None]


# Reports and ends


def test_an_epoch_and_its_decision_are_recorded_once(tmp_path: Path) -> None:
    with closing(opened(tmp_path, pruner=Pruner(min_epochs=2))) as study:
        for value in (0.5, 0.1):
            assert study.ask()
            number = study.record.counts()["RUNNING"] - 1
            assert not study.record.report("demo", number, 1, 0.0)
            stops = study.record.report("demo", number, 2, value)
            assert stops == (value == 0.1)
            size = (tmp_path / JOURNAL).stat().st_size
            assert study.record.report("demo", number, 2, 9.0) == stops
            assert (tmp_path / JOURNAL).stat().st_size == size
        kept, stopped = study.record.trials()["demo"]
        assert [t.user_attrs["decision:2"] for t in (kept, stopped)] == ["keep", "prune"]
        assert study.record.report("demo", 1, 3, 9.0)  # not recorded: it was stopped
        study.record.tell("demo", 1, TrialState.PRUNED)
        assert study.record.report("demo", 1, 4, 9.0)
        study.record.tell("demo", 1, TrialState.FAIL, "too late")
        ended = study.record.trials()["demo"][1]
        assert (ended.state, ended.value) == (TrialState.PRUNED, 0.1)
        assert ended.intermediate_values == {1: 0.0, 2: 0.1}
        assert "reason" not in ended.user_attrs


def test_a_trial_that_ends_before_its_pruning_decision_arrives_is_pruned(tmp_path: Path) -> None:
    """A slot that was stopped after its last epoch, a rung, does not wait for the decision."""
    with closing(opened(tmp_path, trials=2)) as study:
        for number, value in ((0, 0.5), (1, 0.1)):
            assert study.ask()
            stopped = study.record.report("demo", number, 1, value)
            study.record.tell("demo", number, TrialState.COMPLETE)
            assert stopped == (number == 1)
        states = [trial.state for trial in study.record.trials()["demo"]]
        assert states == [TrialState.COMPLETE, TrialState.PRUNED]


def test_a_stopped_trial_without_an_end_is_proposed_as_stopped(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=2)) as study:
        for number, value in ((0, 0.5), (1, 0.1)):
            assert study.ask()
            assert study.record.report("demo", number, 1, value) == (number == 1)
    with closing(opened(tmp_path, trials=2)) as study:
        proposals = finish(study)
        assert [(p.number, p.stopped) for p in proposals] == [(0, False), (1, True)]
        assert study.record.trials()["demo"][1].intermediate_values == {1: 0.1}
        assert study.record.trials()["demo"][1].state == TrialState.PRUNED
        assert study.done


@pytest.mark.parametrize("torn", [False, True])
def test_a_decision_that_a_kill_prevents_is_made_at_the_next_start(
    torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(opened(tmp_path, trials=2)) as study:
        assert study.ask()
        assert not study.record.report("demo", 0, 1, 0.5)
        assert study.ask()
        with pytest.raises(Killed), killed_after(monkeypatch, 1, torn):  # after the value
            study.record.report("demo", 1, 1, 0.1)
        assert "prune" not in (tmp_path / JOURNAL).read_text()
    with closing(opened(tmp_path, trials=2)) as study:
        assert records(tmp_path)[-1]["user_attr"] == {"decision:1": "prune"}
        assert [p.stopped for p in (study.ask(), study.ask()) if p] == [False, True]


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.nan]])
def test_a_trial_does_not_complete_without_a_value(values: list[float], tmp_path: Path) -> None:
    with closing(opened(tmp_path, pruner=Pruner(kind="none"))) as study:
        assert study.ask()
        for epoch, value in enumerate(values, start=1):
            assert not study.record.report("demo", 0, epoch, value)
        study.record.tell("demo", 0, TrialState.COMPLETE)
        [failed] = study.record.failures()
        assert failed.user_attrs["reason"] == f"it ended with the value {'nan' if values else None}"


def test_nan_is_pruned_at_a_rung_and_survives_the_journal(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as study:
        assert study.ask()
        assert study.record.report("demo", 0, 1, math.nan)
    with closing(opened(tmp_path)) as study:
        assert len(finish(study)) == 12
        trial = study.record.trials()["demo"][0]
        assert trial.state == TrialState.PRUNED
        assert trial.value is None
        assert math.isnan(trial.intermediate_values[1])
        assert list(trial.intermediate_values) == [1]


def test_attributes_and_reasons_are_read_back(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as study:
        proposal = study.ask()
        assert proposal is not None
        study.record.report("demo", 0, 1, 0.5)
        attributes = {"seconds": 1.5, "scores": {"p": 1}}
        study.record.tell("demo", 0, TrialState.FAIL, "loss is nan", attributes)
    with closing(opened(tmp_path)) as study:
        [failed] = study.record.failures()
        assert failed.user_attrs == {
            "overrides": list(proposal.overrides),
            "signature": proposal.signature,
            "decision:1": "keep",
            "seconds": 1.5,
            "scores": {"p": 1},
            "reason": "loss is nan",
        }
        assert study.ask() != proposal


# Twins: trials with the signature of an earlier one


def test_a_trial_with_a_repeated_signature_gets_the_first_result_untrained(tmp_path: Path) -> None:
    with closing(opened(tmp_path, sample=sample_one_of_three)) as study:
        proposals = finish(study)
        trials = study.record.trials()["demo"]
        assert study.done
    assert len(trials) == 12
    assert len(proposals) == len({p.signature for p in proposals}) == 3
    first = {t.user_attrs["signature"]: t for t in reversed(trials)}
    twins = [t for t in trials if "twin_of" in t.user_attrs]
    assert len(twins) == 9
    for twin in twins:
        trained = first[twin.user_attrs["signature"]]
        assert twin.user_attrs["twin_of"] == f"demo {trained.number}"
        assert twin.number > trained.number
        for same in ("state", "values", "intermediate_values"):
            assert getattr(twin, same) == getattr(trained, same)


def end_complete(study: SweepStudy) -> None:
    study.record.report("demo", 0, 1, 0.5)
    study.record.tell("demo", 0, TrialState.COMPLETE)


def end_failed(study: SweepStudy) -> None:
    study.record.report("demo", 0, 1, 0.5)
    study.record.tell("demo", 0, TrialState.FAIL, "out of memory")


@pytest.mark.parametrize("end", [end_complete, end_failed])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_twin_waits_for_the_end_of_the_first_trial(
    end: Callable[[SweepStudy], None], restarted: bool, tmp_path: Path
) -> None:
    def always_the_same(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
        return [f"head={trial.suggest_categorical('head', ['a'])}"]

    study = opened(tmp_path, sample=always_the_same, trials=3)
    assert study.ask()
    assert study.ask() is None
    assert study.record.counts() == {"RUNNING": 3}
    assert not study.done
    if restarted:
        study.close()
        study = opened(tmp_path, sample=always_the_same, trials=3)
        assert study.ask()
        assert study.ask() is None
    end(study)
    assert study.done
    first, *twins = study.record.trials()["demo"]
    assert len(twins) == 2
    for twin in twins:
        assert twin.state == first.state
        assert twin.values == first.values
        assert twin.intermediate_values == {1: 0.5}
        assert twin.user_attrs.get("reason") == first.user_attrs.get("reason")
    assert len(study.record.failures()) == (end is end_failed)
    study.close()


@pytest.mark.parametrize("appends", range(6))
def test_all_twins_get_their_result_if_the_driver_is_killed_meanwhile(
    appends: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always_the_same(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
        return [f"head={trial.suggest_categorical('head', ['a'])}"]

    with closing(opened(tmp_path, sample=always_the_same, trials=3)) as study:
        assert study.ask()
        assert study.ask() is None
        with pytest.raises(Killed), killed_after(monkeypatch, appends, torn=False):
            end_complete(study)
    with closing(opened(tmp_path, sample=always_the_same, trials=3)) as study:
        if study.ask():
            end_complete(study)
        assert study.done
        assert [t.value for t in study.record.trials()["demo"]] == [0.5] * 3
        assert [t.intermediate_values for t in study.record.trials()["demo"]] == [{1: 0.5}] * 3
    assert (tmp_path / JOURNAL).read_text().count('"intermediate_value":') == 3


# The folder and its journal


def test_a_second_driver_is_refused_until_the_first_one_closes(tmp_path: Path) -> None:
    with closing(opened(tmp_path)), pytest.raises(InputError, match="another driver"):
        opened(tmp_path)
    opened(tmp_path).close()


def test_a_refused_driver_keeps_a_record_that_is_being_written(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as study:
        assert study.ask()
        before = (tmp_path / JOURNAL).read_bytes()
        (tmp_path / JOURNAL).write_bytes(before + b'{"op_code":6,')
        with pytest.raises(InputError, match="another driver"):
            opened(tmp_path)
        assert (tmp_path / JOURNAL).read_bytes() == before + b'{"op_code":6,'


def test_a_failed_start_releases_the_folder(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("nonsense\nnonsense\n")
    for _ in range(2):
        with pytest.raises(InputError, match="line 1"):
            opened(tmp_path)


def test_a_refused_config_adds_no_trial(tmp_path: Path) -> None:
    def refuse(overrides: Sequence[str]) -> str:
        raise InputError("no")

    with closing(opened(tmp_path, sign=refuse)) as study, pytest.raises(InputError, match="no"):
        study.ask()
    assert run(tmp_path) == run(tmp_path.with_name("other"))


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_no_step_reads_all_trials(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's time for a trial does not grow with the number of trials."""

    def search(*_: Any, **__: Any) -> None:
        pytest.fail("all trials were read")

    with closing(opened(tmp_path, sampler=kind)) as study:
        monkeypatch.setattr(Journal, "get_all_trials", search)
        while (proposal := study.ask()) is not None:
            train(study, proposal)
            assert study.record.failures() == []
            assert study.record.ended() == proposal.number + 1
        assert study.done


def test_the_journal_has_one_line_per_event(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=1, pruner=Pruner(min_epochs=2))) as study:
        finish(study)
    lines = (tmp_path / JOURNAL).read_bytes().count(b"\n")
    # study, trial, one for each epoch, decisions after epochs 2 and 4, two attributes, state
    assert lines == 1 + 1 + EPOCHS + 2 + 2 + 1


def test_trials_of_earlier_starts_count_if_they_were_more_than_are_planned_now(tmp_path):
    changed = {**COMPARED, "seeds": 2}
    with closing(opened(tmp_path, trials=6, **changed)) as study:
        assert study.most_trials == 6 + 2 * 2
        finish(study)
    with closing(opened(tmp_path, trials=2, **changed)) as study:
        assert study.most_trials == 6 + 2 * 2 + 2 * 2  # other trials may become the best ones
        assert study.refits == 0
