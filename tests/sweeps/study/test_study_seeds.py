"""The best configuration of each compared value, trained again with new seeds."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.support.fake_sweep import (
    COMPARED,
    Killed,
    Pruner,
    finish,
    killed_after,
    objective,
    opened,
    records,
    run,
)

SEEDED: dict[str, Any] = {**COMPARED, "trials": 6, "seeds": 2}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def final(trial: Any) -> float:
    return float(trial.intermediate_values[trial.last_step])


def test_each_best_one_is_trained_with_new_seeds_once_its_study_has_ended(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **SEEDED)) as study:
        assert study.planned == 6 + 2 * 2
        handed = finish(study)
        assert study.done
        trials, repeats = study.record.trials(), study.repeats()
        assert study.record.ended() == study.planned == sum(study.record.counts().values())
    assert [p.study for p in handed[6:]] == ["demo/gru seeds", "demo/transformer seeds"] * 2
    for name in ("demo/gru", "demo/transformer"):
        complete = [t for t in trials[name] if t.state == TrialState.COMPLETE]
        best = max(complete, key=final)
        seeds = [f"training.seed={1001 + number}" for number in range(2)]
        assert [t.user_attrs["repeat_of"] for t in repeats[name]] == [f"{name} {best.number}"] * 2
        expected = [[*best.user_attrs["overrides"], seed] for seed in seeds]
        assert [t.user_attrs["overrides"] for t in repeats[name]] == expected
        assert all(t.params == best.params for t in repeats[name])


def test_they_are_not_pruned(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **{**SEEDED, "seeds": 6})) as study:
        handed = finish(study)
        assert any(t.state == TrialState.PRUNED for t in study.record.trials()["demo/gru"])
        for trials in study.repeats().values():
            assert [t.state for t in trials] == [TrialState.COMPLETE] * 6
            assert not any(k.startswith("decision") for t in trials for k in t.user_attrs)
    assert all(p.unpruned == p.study.endswith("seeds") for p in handed)


def test_none_begins_while_a_trial_of_its_study_runs(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **{**SEEDED, "pruner": Pruner(kind="none")})) as study:
        asked = [study.ask() for _ in range(6)]
        assert study.ask() is None
        assert not study.done
        for proposal in asked[:-1]:
            for epoch in range(1, 6):
                study.record.report(
                    proposal.study, proposal.number, epoch, objective(proposal.overrides, epoch)
                )
            study.record.tell(proposal.study, proposal.number, TrialState.COMPLETE)
        assert [study.ask().study for _ in range(2)] == ["demo/gru seeds"] * 2
        assert study.ask() is None


def test_a_study_without_a_result_has_none(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **SEEDED)) as study:
        while (proposal := study.ask()) is not None:
            study.record.tell(proposal.study, proposal.number, TrialState.FAIL, "broken")
        assert study.done
        assert study.repeats() == {"demo/gru": [], "demo/transformer": []}


def test_seeds_may_be_asked_for_later_and_more_of_them(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", **SEEDED)
    for seeds in (0, 1, 2):
        parts = run(tmp_path / "parts", **{**SEEDED, "seeds": seeds})

    def trials(found: list[dict[str, Any]]) -> list[Any]:
        return sorted(str(r["user_attrs"]) for r in found if r["op_code"] == 4)

    assert trials(parts) == trials(whole)


def test_another_best_one_is_trained_with_the_seeds_too(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **SEEDED)) as study:
        finish(study)
        before = study.repeats()
    more = {**SEEDED, "trials": 60}
    with closing(opened(tmp_path, **more)) as study:
        finish(study)
        after = study.repeats()
        assert study.done
    for name, trials in after.items():
        assert len(trials) == 2
        assert final(trials[0]) != final(before[name][0]) or trials == before[name]


@pytest.mark.parametrize("torn", [False, True])
def test_killed_anywhere_it_ends_as_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    small = {**SEEDED, "trials": 4, "seeds": 1}
    whole = run(tmp_path / "whole", **small)
    for appends in range(len(whole)):
        folder = tmp_path / f"killed{appends}"
        with killed_after(monkeypatch, appends, torn), pytest.raises(Killed):
            run(folder, **small)
        assert run(folder, **small) == whole


def test_a_failed_one_is_retried_as_a_repeat(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **{**SEEDED, "seeds": 1})) as study:
        while (proposal := study.ask()) is not None:
            if proposal.unpruned:
                study.record.tell(proposal.study, proposal.number, TrialState.FAIL, "broken")
                continue
            for epoch in range(1, 6):
                if study.record.report(
                    proposal.study, proposal.number, epoch, objective(proposal.overrides, epoch)
                ):
                    study.record.tell(proposal.study, proposal.number, TrialState.PRUNED)
                    break
            else:
                study.record.tell(proposal.study, proposal.number, TrialState.COMPLETE)
        assert study.done
        assert study.record.retry_failed() == 2
        again = finish(study)
        assert all(p.unpruned for p in again)
        assert study.done
        assert [len(trials) for trials in study.repeats().values()] == [1, 1]
    assert records(tmp_path)
