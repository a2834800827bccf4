"""Killed and restarted sweeps, compared with undisturbed ones and with Optuna's own loop."""

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
FIRST: list[dict[str, Any]] = [
    {"encoder": "gru", "encoder=gru/encoder.layers": 2},
    {"optim.lr": 1e-3},
    {"encoder": "transformer", "encoder=transformer/encoder.layers": 4, "optim.lr": 1e-4},
]
COLLAPSED: dict[str, Any] = {
    "collapse": True,
    "pruner": Pruner(kind="none"),
    "sample": sample_one_of_three,
    **MISHAPS,
}
SCENARIOS: dict[str, list[dict[str, Any]]] = {
    "tpe": [{"trials": 7}],
    "compared": [{"trials": 6, "sampler": "random", **COMPARED}],
    "twins": [{"trials": 9, "sample": sample_one_of_three}],
    "unpruned": [{"trials": 4, "sampler": "random", "pruner": Pruner(kind="none")}],
    "extended": [{"trials": 3}, {"trials": 6}],
    "first points, more of them later": [
        {"trials": 3, "first": [FIRST[:2]]},
        {"trials": 6, "first": [FIRST]},
    ],
    "first points, compared, mishaps": [
        {"trials": 4, **MISHAPS, **COMPARED, "first": [FIRST[1:2], []]},
        {"trials": 8, **MISHAPS, **COMPARED, "first": [FIRST[1:2], []], "retry": True},
    ],
    "mishaps": [
        {"trials": 5, **MISHAPS},
        {"trials": 5, **MISHAPS, "retry": True},
        {"trials": 7, **MISHAPS},
    ],
    "collapsed": [{"trials": 7, "collapse": True}],
    "collapsed, unpruned, with mishaps and twins": [
        {"trials": 9, **COLLAPSED},
        {"trials": 9, **COLLAPSED, "retry": True},
        {"trials": 11, **COLLAPSED},
    ],
    "collapsed, with new seeds": [
        {"trials": 4, "collapse": True, "seeds": 1, "seed": 26, **COMPARED}
    ],
    "mishaps, compared, with twins": [
        {"trials": 8, **MISHAPS, **REPEATS},
        {"trials": 8, **MISHAPS, **REPEATS, "retry": True},
        {"trials": 11, **MISHAPS, **REPEATS},
    ],
}
"""Scenario -> arguments of each command that the sweep gets, in order."""


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize(
    ("scenario", "torn"), [*((scenario, True) for scenario in SCENARIOS), ("compared", False)]
)
def test_a_sweep_killed_after_any_record_ends_as_an_undisturbed_one(
    scenario: str, torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that is killed after any record ends with the trials of an undisturbed one.

    After the kill the journal has its first records, and half of the next one if ``torn``. Then
    the interrupted command is run again, and after it the later commands.
    """
    monkeypatch.setattr(sampler, "FIT_TRIALS", 5)
    ends = []
    for command in SCENARIOS[scenario]:
        undisturbed = run(tmp_path, **command)
        ends.append(len(undisturbed))
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    for count, next_line in enumerate(lines):
        folder = tmp_path / str(count)
        folder.mkdir()
        tail = next_line[: len(next_line) // 2] if torn else b""
        (folder / JOURNAL).write_bytes(b"".join(lines[:count]) + tail)
        for command, end in zip(SCENARIOS[scenario], ends, strict=True):
            if end > count:
                ended = run(folder, **command)
        assert ended == undisturbed, f"killed after {count} records"


def test_the_scenarios_contain_lost_slots_failures_retries_and_twins(tmp_path: Path) -> None:
    """The tests above cover lost slots, failures, retries and twins only if these occur."""
    first, again, more = SCENARIOS["mishaps, compared, with twins"]
    with closing(opened(tmp_path, trials=8, seed=2, **REPEATS)) as study:
        proposals = [(proposal.study, proposal.number) for proposal in finish(study, mishaps=True)]
        assert len(proposals) > len(set(proposals))  # a slot was lost
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


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name.startswith("collapsed")])
def test_the_scenarios_of_collapse_contain_collapsed_trials(scenario: str, tmp_path: Path) -> None:
    for command in SCENARIOS[scenario]:
        found = run(tmp_path, **command)
    reasons = [record["user_attr"].get("reason") for record in found if "user_attr" in record]
    assert "collapsed" in reasons


@pytest.mark.parametrize("appends", [4, 7])  # the end of a trial takes three
def test_a_sweep_killed_many_times_ends_as_an_undisturbed_one(
    appends: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(tmp_path / "undisturbed", **COMPARED)
    for _ in range(30):
        with suppress(Killed), killed_after(monkeypatch, appends, torn=True):
            run(tmp_path / "killed", **COMPARED)
    assert records(tmp_path / "killed") == undisturbed


@pytest.mark.parametrize(("seed", "pruned"), [(1, True), (2, True), (3, True), (4, False)])
@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_trials_equal_those_of_optuna_s_own_loop(
    kind: str, seed: int, pruned: bool, tmp_path: Path
) -> None:
    """A sweep with one slot gives the trials of Optuna's loop: ask, report, should_prune, tell.

    Parameters, intermediate values, states and values are equal. No point is drawn twice here: a
    sweep gives a repeated point the first one's result, but Optuna trains it again and may prune it
    at another epoch, since more trials have reached its rungs by then.
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

    def facts(trials: list[FrozenTrial]) -> list[Any]:
        return [
            (t.params, t.distributions, t.values, t.intermediate_values, t.state) for t in trials
        ]

    with closing(opened(tmp_path, trials=0)) as study:
        ours = study.record.trials()["demo"]
        assert facts(ours) == facts(plain.trials)
        assert not any("twin_of" in trial.user_attrs for trial in ours)
        assert 10 < study.record.counts()["PRUNED"] < 45 or not pruned


def test_tpe_learns_only_from_the_last_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbounded = run(tmp_path / "unbounded")
    monkeypatch.setattr(sampler, "FIT_TRIALS", 5)
    bounded = run(tmp_path / "bounded")
    params = [
        [line["params"] for line in lines if "params" in line] for lines in (unbounded, bounded)
    ]
    same = [one == other for one, other in zip(*params, strict=True)]
    assert same[:6] == [True] * 6
    assert False in same
