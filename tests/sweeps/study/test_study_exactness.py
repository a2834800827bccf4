"""A sweep that is killed and started again, held against the undisturbed one and against Optuna."""

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial

from sweeps.study import sampler
from sweeps.study.journal import JOURNAL
from sweeps.study.sampler import make_sampler, startup_trials
from tests.support.fake_sweep import (
    COMPARED,
    EPOCHS,
    Killed,
    Pruner,
    finish,
    killed_after,
    objective,
    opened,
    records,
    run,
    sample,
    sample_few,
    sample_one_of_three,
)

MISHAPS: dict[str, Any] = {"mishaps": True, "seed": 2}
REPEATS: dict[str, Any] = {"sample": sample_few, "sampler": "random", **COMPARED}
STORIES: dict[str, list[dict[str, Any]]] = {
    "tpe": [{"trials": 7}],
    "compared": [{"trials": 6, "sampler": "random", **COMPARED}],
    "twins": [{"trials": 9, "sample": sample_one_of_three}],
    "unpruned": [{"trials": 4, "sampler": "random", "pruner": Pruner(kind="none")}],
    "extended": [{"trials": 3}, {"trials": 6}],
    "mishaps": [
        {"trials": 5, **MISHAPS},
        {"trials": 5, **MISHAPS, "retry": True},
        {"trials": 7, **MISHAPS},
    ],
    "mishaps, compared, with twins": [
        {"trials": 8, **MISHAPS, **REPEATS},
        {"trials": 8, **MISHAPS, **REPEATS, "retry": True},
        {"trials": 11, **MISHAPS, **REPEATS},
    ],
}
"""The commands given to a sweep, one after another."""


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize(
    ("story", "torn"), [*((story, True) for story in STORIES), ("compared", False)]
)
def test_killed_after_any_record_it_ends_as_undisturbed(
    story: str, torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that is killed after any record ends with the trials of an undisturbed one.

    The kill leaves the journal up to some record, or torn in the middle of the next one. Then the
    interrupted command is given again, and the commands after it.
    """
    monkeypatch.setattr(sampler, "FIT_TRIALS", 5)
    ends = []
    for command in STORIES[story]:
        undisturbed = run(tmp_path, **command)
        ends.append(len(undisturbed))
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    for count, cut in enumerate(lines):
        folder = tmp_path / str(count)
        folder.mkdir()
        tail = cut[: len(cut) // 2] if torn else b""
        (folder / JOURNAL).write_bytes(b"".join(lines[:count]) + tail)
        for command, end in zip(STORIES[story], ends, strict=True):
            if end > count:
                ended = run(folder, **command)
        assert ended == undisturbed, f"killed after {count} records"


def test_the_mishaps_happen(tmp_path: Path) -> None:
    """Else the stories would tell nothing of them."""
    first, again, more = STORIES["mishaps, compared, with twins"]
    with closing(opened(tmp_path, trials=8, seed=2, **REPEATS)) as study:
        handed = [(proposal.study, proposal.number) for proposal in finish(study, mishaps=True)]
        assert len(handed) > len(set(handed))  # a slot was lost
        assert study.record.counts() == {"COMPLETE": 1, "PRUNED": 3, "FAIL": 4}
        assert len(study.record.failures()) == 2
    assert records(tmp_path) == run(tmp_path, **first)
    run(tmp_path, **again)
    run(tmp_path, **more)
    with closing(opened(tmp_path, trials=0, **COMPARED)) as study:
        assert study.record.counts() == {"COMPLETE": 6, "PRUNED": 5}
        trials = [trial for found in study.record.trials().values() for trial in found]
    retries = [trial for trial in trials if "retry_of" in trial.user_attrs]
    assert {trial.state.name for trial in retries} == {"COMPLETE", "PRUNED"}
    of_retries = {f"demo/transformer {trial.number}" for trial in retries}
    assert of_retries & {trial.user_attrs.get("twin_of") for trial in trials}


@pytest.mark.parametrize("each", [4, 7])  # telling takes three
def test_killed_again_and_again_it_ends_as_undisturbed(
    each: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(tmp_path / "undisturbed", **COMPARED)
    for _ in range(30):
        with suppress(Killed), killed_after(monkeypatch, each, torn=True):
            run(tmp_path / "killed", **COMPARED)
    assert records(tmp_path / "killed") == undisturbed


@pytest.mark.parametrize(("seed", "pruned"), [(1, True), (2, True), (3, True), (4, False)])
@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_trials_equal_a_plain_optuna_loop_s(
    kind: str, seed: int, pruned: bool, tmp_path: Path
) -> None:
    """One slot, and Optuna's own loop: ask, report, should_prune, tell, with its own pruner.

    Parameters, intermediate values, states and values are equal; our decision records are beside
    them. No point repeats here. Optuna would train a repeated one again, we tell it what the first
    one got, and what is told may differ where trials are pruned: the plain loop holds the repeated
    point against all that has come to its rungs since.
    """
    pruner = Pruner(kind="asha" if pruned else "none")
    run(tmp_path, sampler=kind, seed=seed, pruner=pruner, trials=45)
    plain = optuna.create_study(
        direction="maximize", pruner=SuccessiveHalvingPruner(1, 2) if pruned else NopPruner()
    )

    def train_plainly(trial: optuna.Trial) -> float:
        overrides = sample(trial, {})
        for epoch in range(1, EPOCHS + 1):
            trial.report(objective(overrides, epoch), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return objective(overrides, EPOCHS)

    for number in range(45):
        plain.sampler = make_sampler(kind, seed, number, startup_trials(45))
        plain.optimize(train_plainly, n_trials=1)

    def said(trials: list[FrozenTrial]) -> list[Any]:
        return [
            (t.params, t.distributions, t.values, t.intermediate_values, t.state) for t in trials
        ]

    with closing(opened(tmp_path, trials=0)) as study:
        ours = study.record.trials()["demo"]
        assert said(ours) == said(plain.trials)
        assert not any("twin_of" in trial.user_attrs for trial in ours)
        assert 10 < study.record.counts()["PRUNED"] < 45 or not pruned


def test_tpe_learns_from_the_last_trials_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    monkeypatch.setattr(sampler, "FIT_TRIALS", 5)
    bounded = run(tmp_path / "bounded")
    params = [[line["params"] for line in lines if "params" in line] for lines in (whole, bounded)]
    same = [one == other for one, other in zip(*params, strict=True)]
    assert same[:6] == [True] * 6
    assert False in same
