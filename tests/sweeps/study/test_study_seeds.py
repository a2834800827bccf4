"""Repeats: the best trial of each compared value is trained again with new seeds."""

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from sweeps.study.journal import JOURNAL
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


def last_value(trial: Any) -> float:
    return float(trial.intermediate_values[trial.last_step])


def test_the_best_trial_of_each_ended_study_is_repeated_with_new_seeds(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **SEEDED)) as study:
        assert study.planned == 6 + 2 * 2
        proposals = finish(study)
        assert study.done
        trials, repeats = study.record.trials(), study.repeats()
        assert study.record.ended() == study.planned == sum(study.record.counts().values())
    assert [p.study for p in proposals[6:]] == ["demo/gru seeds", "demo/transformer seeds"] * 2
    for name in ("demo/gru", "demo/transformer"):
        complete = [t for t in trials[name] if t.state == TrialState.COMPLETE]
        best = max(complete, key=last_value)
        seeds = [f"training.seed={1001 + number}" for number in range(2)]
        assert [t.user_attrs["repeat_of"] for t in repeats[name]] == [f"{name} {best.number}"] * 2
        expected = [[*best.user_attrs["overrides"], seed] for seed in seeds]
        assert [t.user_attrs["overrides"] for t in repeats[name]] == expected
        assert all(t.params == best.params for t in repeats[name])


def test_repeats_are_not_pruned(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **{**SEEDED, "seeds": 6})) as study:
        proposals = finish(study)
        assert any(t.state == TrialState.PRUNED for t in study.record.trials()["demo/gru"])
        for trials in study.repeats().values():
            assert [t.state for t in trials] == [TrialState.COMPLETE] * 6
            assert not any(k.startswith("decision") for t in trials for k in t.user_attrs)
    assert all(p.unpruned == p.study.endswith("seeds") for p in proposals)


def test_no_repeat_starts_while_a_trial_of_its_study_runs(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **{**SEEDED, "pruner": Pruner(kind="none")})) as study:
        proposals = [study.ask() for _ in range(6)]
        assert study.ask() is None
        assert not study.done
        for proposal in proposals[:-1]:
            for epoch in range(1, 6):
                study.record.report(
                    proposal.study, proposal.number, epoch, objective(proposal.overrides, epoch)
                )
            study.record.tell(proposal.study, proposal.number, TrialState.COMPLETE)
        assert [study.ask().study for _ in range(2)] == ["demo/gru seeds"] * 2
        assert study.ask() is None


def test_a_study_without_a_result_has_no_repeats(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **SEEDED)) as study:
        while (proposal := study.ask()) is not None:
            study.record.tell(proposal.study, proposal.number, TrialState.FAIL, "broken")
        assert study.done
        assert study.repeats() == {"demo/gru": [], "demo/transformer": []}


def test_more_seeds_can_be_added_to_a_finished_sweep(tmp_path: Path) -> None:
    at_once = run(tmp_path / "at_once", **SEEDED)
    for seeds in (0, 1, 2):
        in_steps = run(tmp_path / "in_steps", **{**SEEDED, "seeds": seeds})

    def trials(found: list[dict[str, Any]]) -> list[Any]:
        return sorted(str(r["user_attrs"]) for r in found if r["op_code"] == 4)

    assert trials(in_steps) == trials(at_once)


def test_a_new_best_trial_is_repeated_too(tmp_path: Path) -> None:
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
        assert last_value(trials[0]) != last_value(before[name][0]) or trials == before[name]


def test_a_killed_sweep_with_repeats_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every other record is torn by the kill, the rest of them are not begun."""
    small = {**SEEDED, "trials": 4, "seeds": 1}
    undisturbed = run(tmp_path / "undisturbed", **small)
    for appends in range(len(undisturbed)):
        folder = tmp_path / f"killed{appends}"
        with killed_after(monkeypatch, appends, torn=appends % 2 == 0), pytest.raises(Killed):
            run(folder, **small)
        assert run(folder, **small) == undisturbed


def test_a_failed_repeat_is_retried_as_a_repeat(tmp_path: Path) -> None:
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


def test_a_trial_with_new_seeds_that_names_no_repeated_trial_is_left_out(tmp_path: Path) -> None:
    with closing(opened(tmp_path, **SEEDED)) as study:
        finish(study)
        repeats = study.repeats()
    path = tmp_path / JOURNAL
    path.write_text(path.read_text().replace('"repeat_of"', '"other"', 1))
    with closing(opened(tmp_path, **SEEDED)) as study:
        found = study.repeats()
    assert sum(map(len, found.values())) == sum(map(len, repeats.values())) - 1
