"""Tests of the warm start: the same finished trials of another sweep are taken over."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import TrialState

from mtl.dataset import Dataset
from mtl.errors import InputError
from sweeps.planning.plan import Plan, make_plan
from sweeps.run import open_study
from sweeps.search import warm_start
from sweeps.search.warm_start import read_earlier, take_over
from sweeps.search_file import load
from sweeps.storage.driver_lock import DriverLock
from sweeps.storage.run_folder import holds_sweep, record_start
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study import SweepStudy
from tests.support.small_data import make_dataset, make_listing, write_space

SPACE = {
    "encoder": {"choice": {"gru": {"encoder.layers": {"min": 1, "max": 2}}, "lstm": {}}},
    "optim.lr": {"min": 1e-3, "max": 1e-1, "log": True},
}

WITHOUT_WEIGHTS = 4


class Sweeps:
    """Run folders on one dataset, whose trials are recorded without training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset: Dataset = make_dataset(folder / "data", make_listing())

    def plan(self, name: str, *overrides: str, **sections: Any) -> Plan:
        sections = {"space": SPACE, "search": {"trials": 6, "seed": 3}, **sections}
        file = write_space(self.folder, str(self.folder / "data"), **sections)
        return make_plan(load(file, [f"name={name}", *overrides]), self.dataset)

    def run(self, plan: Plan, earlier: str = "") -> tuple[Path, str, SweepStudy]:
        folder = self.folder / "runs" / plan.file.name
        earlier_trials = None
        if earlier:
            earlier_trials = read_earlier(
                self.folder / "runs" / earlier, plan.file, self.dataset, folder
            )
        record_start(folder, plan.file, self.dataset, resumed=holds_sweep(folder))
        study = open_study(folder, plan, DriverLock(folder))
        try:
            message = take_over(earlier_trials, plan, study, folder) if earlier_trials else ""
            return folder, message, study
        except KeyboardInterrupt:
            study.close()
            raise

    def finished(self, plan: Plan, earlier: str = "") -> tuple[Path, str, SweepStudy]:
        """Run a sweep to its end; the first trial of each study fails, some others are pruned."""
        folder, message, study = self.run(plan, earlier)
        while (proposal := study.ask()) is not None:
            key = (proposal.study, proposal.number)
            trial = folder / "trials" / proposal.signature
            (trial / "weights").mkdir(parents=True)
            (trial / "predictions.parquet").write_text(proposal.signature)
            (trial / "scores.json").write_text('{"epochs": {"valence": 1}}')
            if proposal.number != WITHOUT_WEIGHTS:
                (trial / "weights" / "epoch_001.safetensors").write_bytes(b"")
            for epoch in (1, 2, 3):
                if study.record.report(*key, epoch, 1 / (2 + proposal.number) + epoch / 100):
                    study.record.tell(*key, TrialState.PRUNED)
                    break
            else:
                failed = proposal.number == 0
                study.record.tell(
                    *key, TrialState.FAIL if failed else TrialState.COMPLETE, "it broke"
                )
        study.close()
        return folder, message, study


@pytest.fixture
def sweeps(tmp_path: Path) -> Sweeps:
    return Sweeps(tmp_path)


def facts(trial: Any) -> tuple[Any, ...]:
    signature, overrides = trial.user_attrs["signature"], trial.user_attrs["overrides"]
    return trial.state, trial.value, trial.intermediate_values, trial.params, signature, overrides


def test_the_same_space_takes_over_all_finished_trials_and_proposes_new_ones(sweeps):
    first, _, _ = sweeps.finished(sweeps.plan("first"))
    folder, message, study = sweeps.run(sweeps.plan("second"), "first")
    with closing(study):
        assert message == f"5 of 5 finished trials of {first} taken over"
        taken = study.record.trials()["second"]
        origins = [trial.user_attrs["from"] for trial in taken]
        assert origins == [f"first: first {number}" for number in range(1, 6)]
        assert study.record.ended() == 5
        assert study.planned == 5 + 6
        signatures = [trial.user_attrs["signature"] for trial in taken]
        drawn = [study.ask() for _ in range(6)]
        assert study.ask() is None
        assert {p.number for p in drawn} == set(range(5, 11))
        assert not {p.signature for p in drawn} & set(signatures)
    with closing(sweeps.run(sweeps.plan("first"))[2]) as source:
        before = source.record.trials()["first"][1:]
    assert [facts(trial) for trial in taken] == [facts(trial) for trial in before]
    for number, signature in enumerate(signatures, 1):
        copied = folder / "trials" / signature / "predictions.parquet"
        if number == WITHOUT_WEIGHTS:  # without weights, its files are not copied
            assert not copied.exists()
        else:
            assert copied.read_text() == signature
    assert not (folder / "taken_over.unfinished").exists()


def test_nothing_is_taken_over_twice_and_a_kill_loses_nothing(
    sweeps, monkeypatch: pytest.MonkeyPatch
):
    sweeps.finished(sweeps.plan("first"))
    plan = sweeps.plan("second")
    copy, remaining = TrialFolder.copy_to, iter(range(2))

    def killed(source: TrialFolder, run_folder: Path) -> None:
        copy(source, run_folder)
        if next(remaining, None) is None:
            raise KeyboardInterrupt  # copied, but not recorded

    with monkeypatch.context() as patch:
        patch.setattr(TrialFolder, "copy_to", killed)
        with pytest.raises(KeyboardInterrupt):
            sweeps.run(plan, "first")
    folder, message, study = sweeps.run(plan, "first")
    study.close()
    assert message.startswith("3 of 5 finished trials of ")
    assert message.endswith(" taken over, 2 are in this sweep already")
    _, message, study = sweeps.run(plan, "first")
    study.close()
    assert message.endswith(
        "0 of 5 finished trials of "
        + str(folder.parent / "first")
        + " taken over, 5 are in this sweep already"
    )
    _, _, study = sweeps.run(plan)  # without --from
    with closing(study):
        assert study.planned == 11
        assert len(study.record.trials()["second"]) == 5


def test_a_collapsed_trial_keeps_its_reason_when_it_is_taken_over(sweeps):
    folder, _, study = sweeps.run(sweeps.plan("first", "pruner.kind=none"))
    with closing(study):
        proposal = study.ask()
        for epoch in (1, 2):
            study.record.report("first", proposal.number, epoch, 0.1, collapsed=epoch == 2)
        note = {"collapsed_tasks": ["valence"]}
        study.record.tell("first", proposal.number, TrialState.PRUNED, attributes=note)
        trial = folder / "trials" / proposal.signature
        trial.mkdir(parents=True)
        (trial / "predictions.parquet").write_text("")
    _, message, study = sweeps.run(sweeps.plan("second", "pruner.kind=none"), "first")
    with closing(study):
        assert message.startswith("1 of 1 finished trials")
        (taken,) = study.record.trials()["second"]
    assert taken.state == TrialState.PRUNED
    assert (taken.user_attrs["reason"], taken.user_attrs["collapsed_tasks"]) == (
        "collapsed",
        ["valence"],
    )


def test_trials_outside_the_space_are_left_out(sweeps):
    folder, _, _ = sweeps.finished(sweeps.plan("first"))
    named = {**SPACE, "encoder": {"values": ["gru"]}, "encoder.layers": {"values": [1, 2]}}
    _, message, study = sweeps.run(sweeps.plan("gru", space=named), "first")
    study.close()
    assert "5 are outside this space" in message  # the layers' parameter has another name there
    ranged = {**SPACE, "optim.lr": {"min": 1e-2, "max": 1e-1, "log": True}}
    _, message, study = sweeps.run(sweeps.plan("lr", space=ranged), "first")
    with closing(study):
        rates = [trial.params["optim.lr"] for trial in study.record.trials()["lr"]]
    assert rates
    assert all(rate >= 1e-2 for rate in rates)
    assert f"{5 - len(rates)} are outside this space" in message
    fixed = {"encoder.hidden": 16, "training.epochs": 3}
    _, message, study = sweeps.run(sweeps.plan("wide", fixed=fixed), "first")
    study.close()
    assert message == f"0 of 5 finished trials of {folder} taken over, 5 are outside this space"


def test_trials_are_taken_over_by_a_search_from_a_comparison_and_back(sweeps):
    compared = sweeps.plan("compared", compare={"by": ["encoder"]})
    sweeps.finished(compared)
    _, message, study = sweeps.finished(sweeps.plan("plain"), "compared")
    assert message.startswith("4 of 4")
    assert {t.params["encoder"] for t in study.record.trials()["plain"][:5]} == {"gru", "lstm"}
    again = sweeps.plan("again", compare={"by": ["encoder"]})
    _, message, study = sweeps.run(again, "plain")
    with closing(study):
        for encoder in ("gru", "lstm"):
            for trial in study.record.trials()[f"again/{encoder}"]:
                assert f"encoder={encoder}" in trial.user_attrs["overrides"]
                assert "encoder" not in trial.params
        assert study.record.ended() == len(study.record.trials()["again/gru"]) + len(
            study.record.trials()["again/lstm"]
        )
        assert study.record.ended() >= 8


def test_refusals_name_the_keys_that_differ(sweeps):
    folder, _, _ = sweeps.finished(sweeps.plan("first"))

    def refused(plan: Plan, earlier: Path = folder) -> str:
        with pytest.raises(InputError) as error:
            read_earlier(earlier, plan.file, sweeps.dataset, sweeps.folder / "runs" / "second")
        return str(error.value)

    assert "it is no sweep's folder" in refused(sweeps.plan("second"), sweeps.folder)
    assert "search.seed is 3 there and 4 here" in refused(sweeps.plan("second", "search.seed=4"))
    message = refused(sweeps.plan("second", "search.confirm=0.25"))
    assert "search.confirm is 0.5 there and 0.25 here" in message
    message = refused(sweeps.plan("second", "search.metric=valence"))
    assert "search.metric is score there and valence here" in message
    own = sweeps.plan("first")
    with pytest.raises(InputError, match="this sweep's own folder"):
        read_earlier(folder, own.file, sweeps.dataset, folder)
    assert yaml.safe_load((folder / "space.yaml").read_text())["name"] == "first"


def test_a_torn_last_line_of_a_growing_journal_is_ignored(sweeps):
    folder, _, _ = sweeps.finished(sweeps.plan("first"))
    journal = folder / "study.journal"
    before = journal.read_bytes() + b'{"op_code": 4, "worker'
    journal.write_bytes(before)
    _, message, study = sweeps.run(sweeps.plan("second"), "first")
    study.close()
    assert message.startswith("5 of 5")
    assert journal.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda lines: [*lines[:3], lines[3][:20] + b"\n", *lines[4:]], "line 4: not a record of"),
        (lambda _: [b"\xff\xfe\n", b"\0\n"], "line 1: not a record of"),
        (lambda _: [b'{"a": 1}\n', b"[]\n"], "line 1: not a record of"),
        (lambda _: [b'{"op_code": 5}\n'], "line 1: worker_id is missing"),
        (
            lambda lines: [line.replace(b'"overrides"', b'"other"') for line in lines],
            "line 2: user_attrs.overrides is missing",
        ),
        (
            lambda lines: [line.replace(b'"signature":"', b'"signature":"../') for line in lines],
            r"line 2: user_attrs.signature = '\.\./",
        ),
    ],
)
def test_a_damaged_journal_of_the_earlier_sweep_is_refused_in_one_sentence(sweeps, damage, fault):
    folder, _, _ = sweeps.finished(sweeps.plan("first"))
    journal = folder / "study.journal"
    journal.write_bytes(b"".join(damage(journal.read_bytes().splitlines(keepends=True))))
    plan, before = sweeps.plan("second"), journal.read_bytes()
    with pytest.raises(InputError, match=rf"first/study\.journal, {fault}") as refused:
        read_earlier(folder, plan.file, sweeps.dataset, sweeps.folder / "runs" / "second")
    assert "\n" not in str(refused.value)
    assert journal.read_bytes() == before


def test_a_trial_whose_config_is_none_here_is_outside_the_space(sweeps, monkeypatch):
    sweeps.finished(sweeps.plan("first"))

    def refused(overrides: Any) -> Any:
        raise InputError("encoder.layers = 2 is refused")

    plan = sweeps.plan("second")
    monkeypatch.setattr(warm_start, "compose", refused)
    _, message, study = sweeps.run(plan, "first")
    study.close()
    assert message.endswith("taken over, 5 are outside this space")
