import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState

from mtl.errors import InputError
from sweeps.study import Proposal, SweepStudy
from sweeps.study.journal import JOURNAL
from sweeps.study.sampler import make_sampler, startup_trials

EPOCHS = 5
COMPARED: dict[str, Any] = {
    "combinations": [{"encoder": "gru"}, {"encoder": "transformer"}],
    "labels": ["gru", "transformer"],
}


@dataclass(frozen=True)
class Pruner:
    kind: str = "asha"
    min_epochs: int = 1
    reduction_factor: int = 2


def sample(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
    """A conditional space: layers exist under two of three encoders, with different bounds."""
    encoder = chosen.get("encoder") or trial.suggest_categorical(
        "encoder", ["gru", "lstm", "transformer"]
    )
    overrides = [f"encoder={encoder}"]
    if encoder != "lstm":
        most = {"gru": 2, "transformer": 4}[encoder]
        name = "encoder.layers"
        overrides.append(f"{name}={trial.suggest_int(f'encoder={encoder}/{name}', 1, most)}")
    overrides.append(f"optim.lr={trial.suggest_float('optim.lr', 1e-5, 1e-2, log=True)}")
    return overrides


def sample_one_of_three(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
    """Three signatures, but as many points as TPE likes."""
    return [f"head.layers={int(trial.suggest_float('layers', 0.0, 2.99))}"]


def sign(overrides: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:12]


def objective(overrides: Sequence[str], epoch: int) -> float:
    """A learning curve that follows from the overrides, different for any two."""
    level, speed = (int(sign([*overrides, part]), 16) / 16**12 for part in ("level", "speed"))
    return level * (1 - math.exp(-epoch * (0.2 + speed)))


def opened(folder: Path, **changed: Any) -> SweepStudy:
    arguments: dict[str, Any] = {
        "name": "demo",
        "combinations": [{}],
        "labels": [""],
        "trials": 12,
        "sampler": "tpe",
        "seed": 7,
        "pruner": Pruner(),
        "sample": sample,
        "sign": sign,
    }
    return SweepStudy(folder, **{**arguments, **changed})


def train(study: SweepStudy, proposal: Proposal) -> None:
    """A slot: goes on from the checkpoint, which for every other trial is one epoch behind."""
    key = (proposal.study, proposal.number)
    if proposal.stopped:
        study.tell(*key, TrialState.PRUNED)
        return
    trained = max(0, len(proposal.reported) - proposal.number % 2)
    for epoch in range(trained + 1, EPOCHS + 1):
        if study.report(*key, epoch, objective(proposal.overrides, epoch)):
            study.tell(*key, TrialState.PRUNED)
            return
    study.tell(*key, TrialState.COMPLETE, attributes={"scores": {"p": 1.0}, "seconds": 3})


def finish(study: SweepStudy) -> list[Proposal]:
    """One slot trains whatever there is; returns what it was handed."""
    handed = []
    while (proposal := study.ask()) is not None:
        handed.append(proposal)
        train(study, proposal)
    return handed


def facts(trial: FrozenTrial) -> dict[str, Any]:
    """All that a trial's record says, but for the time."""
    kept = vars(trial).items()
    return {name: value for name, value in kept if "datetime" not in name}


def record(study: SweepStudy) -> dict[str, list[dict[str, Any]]]:
    return {name: [facts(t) for t in trials] for name, trials in study.trials().items()}


def run(folder: Path, **changed: Any) -> dict[str, list[dict[str, Any]]]:
    """A sweep from wherever it is to its end."""
    with closing(opened(folder, **changed)) as study:
        finish(study)
        assert study.done
        return record(study)


class Killed(BaseException):
    pass


@contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, appends: int, torn: bool) -> Iterator[None]:
    """Dies at the append after so many, either before it or in the middle of its line."""
    write = optuna.storages.journal.JournalFileBackend.append_logs
    left = iter(range(appends))

    def append(self: Any, logs: list[dict[str, Any]]) -> None:
        if next(left, None) is not None:
            return write(self, logs)
        if torn:
            with Path(self._file_path).open("ab") as file:
                file.write(b'{"op_code":4,"worker_id":"00')
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.journal.JournalFileBackend, "append_logs", append)
        yield


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


# Exactness


@pytest.mark.parametrize(
    ("torn", "changed"),
    [
        (False, {"trials": 7}),
        (True, {"trials": 6, "sampler": "random", **COMPARED}),
        (True, {"trials": 9, "sample": sample_one_of_three}),
        (False, {"trials": 4, "sampler": "random", "pruner": Pruner(kind="none")}),
    ],
    ids=["tpe", "compared", "twins", "unpruned"],
)
def test_killed_after_any_write_it_ends_as_undisturbed(
    torn: bool, changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(tmp_path / "undisturbed", **changed)
    appends = (tmp_path / "undisturbed" / JOURNAL).read_bytes().count(b"\n")
    for count in range(appends):
        folder = tmp_path / str(count)
        with pytest.raises(Killed), killed_after(monkeypatch, count, torn):
            run(folder, **changed)
        assert run(folder, **changed) == undisturbed, f"killed after {count} appends"


@pytest.mark.parametrize("each", [4, 7])  # telling takes three
def test_killed_again_and_again_it_ends_as_undisturbed(
    each: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(tmp_path / "undisturbed", **COMPARED)
    for _ in range(30):
        with suppress(Killed), killed_after(monkeypatch, each, torn=True):
            run(tmp_path / "killed", **COMPARED)
    with closing(opened(tmp_path / "killed", **COMPARED)) as study:
        assert study.done
        assert record(study) == undisturbed


@pytest.mark.parametrize("kind", ["tpe", "random"])
@pytest.mark.parametrize("pruned", [True, False])
def test_trials_equal_a_plain_optuna_loop_s(kind: str, pruned: bool, tmp_path: Path) -> None:
    run(tmp_path, sampler=kind, pruner=Pruner(kind="asha" if pruned else "none"), trials=20)
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

    for number in range(20):
        plain.sampler = make_sampler(kind, 7, number, startup_trials(20))
        plain.optimize(train_plainly, n_trials=1)

    def said(trials: list[FrozenTrial]) -> list[Any]:
        return [
            (t.params, t.distributions, t.values, t.intermediate_values, t.state) for t in trials
        ]

    with closing(opened(tmp_path, trials=0)) as study:
        assert said(study.trials()["demo"]) == said(plain.trials)
        assert study.counts()["PRUNED"] > 5 or not pruned


# What is asked


def test_studies_are_served_in_turn_with_equal_shares(tmp_path: Path) -> None:
    labels = ["gru", "transformer"]
    with closing(opened(tmp_path, trials=7, **COMPARED)) as study:
        handed = [study.ask() for _ in range(7)]
        assert study.ask() is None
        assert [(p.study, p.number) for p in handed if p] == [
            (f"demo/{label}", number) for number in range(4) for label in labels
        ][:7]
        assert all(p.overrides[0] == f"encoder={p.study[5:]}" for p in handed if p)
        assert not any("encoder" in t.params for ts in study.trials().values() for t in ts)


def test_compared_studies_start_from_the_same_points(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=4, **COMPARED)) as study:
        finish(study)
        first, second = study.trials().values()
    assert [t.params["optim.lr"] for t in first] == [t.params["optim.lr"] for t in second]


def test_a_finished_sweep_is_extended_by_more_trials_and_left_alone_by_fewer(
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


def test_running_trials_are_handed_out_first_with_what_they_reported(tmp_path: Path) -> None:
    none = Pruner(kind="none")
    with closing(opened(tmp_path, trials=4, pruner=none)) as study:
        left = [study.ask(), study.ask()]
        assert left[0] is not None
        study.report("demo", 0, 1, 0.25)
        study.report("demo", 0, 2, 0.5)
        assert study.counts() == {"RUNNING": 2}
    with closing(opened(tmp_path, trials=1, pruner=none)) as study:
        again = [study.ask(), study.ask(), study.ask()]
    assert again == [Proposal(**{**vars(left[0]), "reported": {1: 0.25, 2: 0.5}}), left[1], None]


# What is reported and told


def test_an_epoch_is_recorded_once_and_its_decision_stands(tmp_path: Path) -> None:
    with closing(opened(tmp_path, pruner=Pruner(min_epochs=2))) as study:
        for value in (0.5, 0.1):
            assert study.ask()
            number = study.counts()["RUNNING"] - 1
            assert not study.report("demo", number, 1, 0.0)
            stops = study.report("demo", number, 2, value)
            assert stops == (value == 0.1)
            size = (tmp_path / JOURNAL).stat().st_size
            assert study.report("demo", number, 2, 9.0) == stops
            assert (tmp_path / JOURNAL).stat().st_size == size
        kept, stopped = study.trials()["demo"]
        assert [t.user_attrs["decision:2"] for t in (kept, stopped)] == ["keep", "prune"]
        assert study.report("demo", 1, 3, 9.0)  # too late: it was stopped
        study.tell("demo", 1, TrialState.PRUNED)
        assert study.report("demo", 1, 4, 9.0)
        study.tell("demo", 1, TrialState.FAIL, "too late")
        told = study.trials()["demo"][1]
        assert (told.state, told.value) == (TrialState.PRUNED, 0.1)
        assert told.intermediate_values == {1: 0.0, 2: 0.1}
        assert "reason" not in told.user_attrs


def test_a_stopped_trial_that_was_not_told_is_handed_out_to_end(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=2)) as study:
        for number, value in ((0, 0.5), (1, 0.1)):
            assert study.ask()
            assert study.report("demo", number, 1, value) == (number == 1)
    with closing(opened(tmp_path, trials=2)) as study:
        handed = finish(study)
        assert [(p.number, p.stopped) for p in handed] == [(0, False), (1, True)]
        assert study.trials()["demo"][1].intermediate_values == {1: 0.1}
        assert study.trials()["demo"][1].state == TrialState.PRUNED
        assert study.done


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.nan]])
def test_a_trial_does_not_complete_without_a_value(values: list[float], tmp_path: Path) -> None:
    with closing(opened(tmp_path, pruner=Pruner(kind="none"))) as study:
        assert study.ask()
        for epoch, value in enumerate(values, start=1):
            assert not study.report("demo", 0, epoch, value)
        study.tell("demo", 0, TrialState.COMPLETE)
        [failed] = study.failures()
        assert failed.user_attrs["reason"] == f"it ended with the value {'nan' if values else None}"


def test_nan_is_pruned_at_a_rung_and_survives_the_journal(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as study:
        assert study.ask()
        assert study.report("demo", 0, 1, math.nan)
    with closing(opened(tmp_path)) as study:
        assert len(finish(study)) == 12
        trial = study.trials()["demo"][0]
        assert trial.state == TrialState.PRUNED
        assert trial.value is None
        assert math.isnan(trial.intermediate_values[1])
        assert list(trial.intermediate_values) == [1]


def test_attributes_and_reasons_are_read_back(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as study:
        proposal = study.ask()
        assert proposal is not None
        study.report("demo", 0, 1, 0.5)
        study.tell("demo", 0, TrialState.FAIL, "loss is nan", {"seconds": 1.5, "scores": {"p": 1}})
    with closing(opened(tmp_path)) as study:
        [failed] = study.failures()
        assert failed.user_attrs == {
            "overrides": list(proposal.overrides),
            "signature": proposal.signature,
            "decision:1": "keep",
            "seconds": 1.5,
            "scores": {"p": 1},
            "reason": "loss is nan",
        }
        assert study.ask() != proposal


# Twins


def test_a_repeated_signature_is_told_and_never_trained(tmp_path: Path) -> None:
    with closing(opened(tmp_path, sample=sample_one_of_three)) as study:
        handed = finish(study)
        trials = study.trials()["demo"]
        assert study.done
    assert len(trials) == 12
    assert len(handed) == len({p.signature for p in handed}) == 3
    first = {t.user_attrs["signature"]: t for t in reversed(trials)}
    twins = [t for t in trials if "twin_of" in t.user_attrs]
    assert len(twins) == 9
    for twin in twins:
        told = first[twin.user_attrs["signature"]]
        assert twin.user_attrs["twin_of"] == f"demo {told.number}"
        assert twin.number > told.number
        for same in ("state", "values", "intermediate_values"):
            assert getattr(twin, same) == getattr(told, same)


def end_complete(study: SweepStudy) -> None:
    study.report("demo", 0, 1, 0.5)
    study.tell("demo", 0, TrialState.COMPLETE)


def end_failed(study: SweepStudy) -> None:
    study.report("demo", 0, 1, 0.5)
    study.tell("demo", 0, TrialState.FAIL, "out of memory")


@pytest.mark.parametrize("end", [end_complete, end_failed])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_twin_waits_for_a_running_first(
    end: Callable[[SweepStudy], None], restarted: bool, tmp_path: Path
) -> None:
    def always_the_same(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
        return [f"head={trial.suggest_categorical('head', ['a'])}"]

    study = opened(tmp_path, sample=always_the_same, trials=3)
    assert study.ask()
    assert study.ask() is None
    assert study.counts() == {"RUNNING": 3}
    assert not study.done
    if restarted:
        study.close()
        study = opened(tmp_path, sample=always_the_same, trials=3)
        assert study.ask()
        assert study.ask() is None
    end(study)
    assert study.done
    first, *twins = study.trials()["demo"]
    assert len(twins) == 2
    for twin in twins:
        assert twin.state == first.state
        assert twin.values == first.values
        assert twin.intermediate_values == {1: 0.5}
        assert twin.user_attrs.get("reason") == first.user_attrs.get("reason")
    assert len(study.failures()) == (end is end_failed)
    study.close()


@pytest.mark.parametrize("told", range(6))
def test_twins_are_told_to_the_end_whenever_the_driver_dies(
    told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def always_the_same(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
        return [f"head={trial.suggest_categorical('head', ['a'])}"]

    with closing(opened(tmp_path, sample=always_the_same, trials=3)) as study:
        assert study.ask()
        assert study.ask() is None
        with pytest.raises(Killed), killed_after(monkeypatch, told, torn=False):
            end_complete(study)
    with closing(opened(tmp_path, sample=always_the_same, trials=3)) as study:
        if study.ask():
            end_complete(study)
        assert study.done
        assert [t.value for t in study.trials()["demo"]] == [0.5] * 3
        assert [t.intermediate_values for t in study.trials()["demo"]] == [{1: 0.5}] * 3
    assert (tmp_path / JOURNAL).read_text().count('"intermediate_value":') == 3


# The folder


def test_a_second_driver_is_refused_and_a_closed_one_is_not_in_the_way(tmp_path: Path) -> None:
    with closing(opened(tmp_path)), pytest.raises(InputError, match="another driver"):
        opened(tmp_path)
    opened(tmp_path).close()


def test_a_failed_start_lets_go_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("nonsense\nnonsense\n")
    for _ in range(2):
        with pytest.raises(InputError, match="line 1"):
            opened(tmp_path)


def test_a_bad_configuration_leaves_no_trial_behind(tmp_path: Path) -> None:
    def refuse(overrides: Sequence[str]) -> str:
        raise InputError("no")

    with closing(opened(tmp_path, sign=refuse)) as study, pytest.raises(InputError, match="no"):
        study.ask()
    assert run(tmp_path) == run(tmp_path.with_name("other"))


def test_the_journal_takes_one_line_per_event(tmp_path: Path) -> None:
    with closing(opened(tmp_path, trials=1, pruner=Pruner(min_epochs=2))) as study:
        finish(study)
    lines = (tmp_path / JOURNAL).read_bytes().count(b"\n")
    # study, trial, an epoch each, decisions at 2 and 4, two attributes, state
    assert lines == 1 + 1 + EPOCHS + 2 + 2 + 1
