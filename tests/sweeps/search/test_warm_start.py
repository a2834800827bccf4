"""Another sweep's finished trials: taken over where this one would train the very same."""

import json
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
from sweeps.search.warm_start import read_earlier, take_over
from sweeps.search_file import load
from sweeps.storage.driver_lock import DriverLock
from sweeps.storage.run_folder import open_run_folder
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study import SweepStudy
from tests.support.small_data import make_dataset, make_listing, write_space

SPACE = {
    "encoder": {"choice": {"gru": {"encoder.layers": {"min": 1, "max": 2}}, "lstm": {}}},
    "optim.lr": {"min": 1e-3, "max": 1e-1, "log": True},
}

WITHOUT_WEIGHTS = 4


class Sweeps:
    """Run folders over one dataset, whose trials are told, not trained."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset: Dataset = make_dataset(folder / "data", make_listing())

    def plan(self, name: str, *overrides: str, **sections: Any) -> Plan:
        sections = {"space": SPACE, "search": {"trials": 6, "seed": 3}, **sections}
        file = write_space(self.folder, str(self.folder / "data"), **sections)
        return make_plan(load(file, [f"name={name}", *overrides]), self.dataset)

    def run(self, plan: Plan, earlier: str = "") -> tuple[Path, str, SweepStudy]:
        folder = self.folder / "runs" / plan.file.name
        found = None
        if earlier:
            found = read_earlier(self.folder / "runs" / earlier, plan.file, self.dataset, folder)
        open_run_folder(folder, plan.file, self.dataset)
        study = open_study(folder, plan, DriverLock(folder))
        try:
            return folder, take_over(found, plan, study, folder) if found else "", study
        except KeyboardInterrupt:
            study.close()
            raise

    def finished(self, plan: Plan, earlier: str = "") -> tuple[Path, str, SweepStudy]:
        """The first trial of each study fails, some of the others are pruned."""
        folder, said, study = self.run(plan, earlier)
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
        return folder, said, study


@pytest.fixture
def sweeps(tmp_path: Path) -> Sweeps:
    return Sweeps(tmp_path)


def facts(trial: Any) -> tuple[Any, ...]:
    signature, overrides = trial.user_attrs["signature"], trial.user_attrs["overrides"]
    return trial.state, trial.value, trial.intermediate_values, trial.params, signature, overrides


def test_the_same_space_takes_over_all_that_finished_and_draws_on(sweeps):
    first, _, _ = sweeps.finished(sweeps.plan("first"))
    folder, said, study = sweeps.run(sweeps.plan("second"), "first")
    with closing(study):
        assert said == f"5 of 5 finished trials of {first} taken over"
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
        if number == WITHOUT_WEIGHTS:  # the sampler knows it; fused it could not be exported
            assert not copied.exists()
        else:
            assert copied.read_text() == signature
    assert not (folder / "taken_over.unfinished").exists()


def test_the_same_command_takes_over_nothing_twice_and_a_kill_costs_nothing(
    sweeps, monkeypatch: pytest.MonkeyPatch
):
    sweeps.finished(sweeps.plan("first"))
    plan = sweeps.plan("second")
    copy, left = TrialFolder.copy_to, iter(range(2))

    def killed(source: TrialFolder, run_folder: Path) -> None:
        copy(source, run_folder)
        if next(left, None) is None:
            raise KeyboardInterrupt  # copied, and not on record

    with monkeypatch.context() as patch:
        patch.setattr(TrialFolder, "copy_to", killed)
        with pytest.raises(KeyboardInterrupt):
            sweeps.run(plan, "first")
    folder, said, study = sweeps.run(plan, "first")
    study.close()
    assert said.startswith("3 of 5 finished trials of ")
    assert said.endswith(" taken over, 2 are in this sweep already")
    _, said, study = sweeps.run(plan, "first")
    study.close()
    assert said.endswith(
        "0 of 5 finished trials of "
        + str(folder.parent / "first")
        + " taken over, 5 are in this sweep already"
    )
    _, _, study = sweeps.run(plan)  # without --from
    with closing(study):
        assert study.planned == 11
        assert len(study.record.trials()["second"]) == 5


def test_what_lies_outside_the_space_is_left(sweeps):
    folder, _, _ = sweeps.finished(sweeps.plan("first"))
    named = {**SPACE, "encoder": {"values": ["gru"]}, "encoder.layers": {"values": [1, 2]}}
    _, said, study = sweeps.run(sweeps.plan("gru", space=named), "first")
    study.close()
    assert "5 are outside this space" in said  # the layers have another name there
    ranged = {**SPACE, "optim.lr": {"min": 1e-2, "max": 1e-1, "log": True}}
    _, said, study = sweeps.run(sweeps.plan("lr", space=ranged), "first")
    with closing(study):
        rates = [trial.params["optim.lr"] for trial in study.record.trials()["lr"]]
    assert rates
    assert all(rate >= 1e-2 for rate in rates)
    assert f"{5 - len(rates)} are outside this space" in said
    fixed = {"encoder.hidden": 16, "training.epochs": 3}
    _, said, study = sweeps.run(sweeps.plan("wide", fixed=fixed), "first")
    study.close()
    assert said == f"0 of 5 finished trials of {folder} taken over, 5 are outside this space"


def test_a_comparison_gives_to_a_search_and_takes_from_one(sweeps):
    compared = sweeps.plan("compared", compare={"by": ["encoder"]})
    sweeps.finished(compared)
    _, said, study = sweeps.finished(sweeps.plan("plain"), "compared")
    assert said.startswith("4 of 4")
    assert {t.params["encoder"] for t in study.record.trials()["plain"][:5]} == {"gru", "lstm"}
    again = sweeps.plan("again", compare={"by": ["encoder"]})
    _, said, study = sweeps.run(again, "plain")
    with closing(study):
        for encoder in ("gru", "lstm"):
            for trial in study.record.trials()[f"again/{encoder}"]:
                assert f"encoder={encoder}" in trial.user_attrs["overrides"]
                assert "encoder" not in trial.params
        assert study.record.ended() == len(study.record.trials()["again/gru"]) + len(
            study.record.trials()["again/lstm"]
        )
        assert study.record.ended() >= 8


def test_refusals_name_what_does_not_agree(sweeps):
    folder, _, _ = sweeps.finished(sweeps.plan("first"))

    def refused(plan: Plan, earlier: Path = folder) -> str:
        with pytest.raises(InputError) as error:
            read_earlier(earlier, plan.file, sweeps.dataset, sweeps.folder / "runs" / "second")
        return str(error.value)

    assert "it is no sweep's folder" in refused(sweeps.plan("second"), sweeps.folder)
    assert "search.seed is 3 there and 4 here" in refused(sweeps.plan("second", "search.seed=4"))
    said = refused(sweeps.plan("second", "search.confirm=0.25"))
    assert "search.confirm is 0.5 there and 0.25 here" in said
    said = refused(sweeps.plan("second", "search.metric=valence"))
    assert "search.metric is score there and valence here" in said
    own = sweeps.plan("first")
    with pytest.raises(InputError, match="this sweep's own folder"):
        read_earlier(folder, own.file, sweeps.dataset, folder)
    (folder / "environment.json").write_text(json.dumps({"dataset": "0" * 64}))
    assert "it was trained on other data" in refused(sweeps.plan("second"))
    assert yaml.safe_load((folder / "space.yaml").read_text())["name"] == "first"


def test_a_torn_last_line_of_a_growing_journal_is_put_up_with(sweeps):
    folder, _, _ = sweeps.finished(sweeps.plan("first"))
    journal = folder / "study.journal"
    before = journal.read_bytes() + b'{"op_code": 4, "worker'
    journal.write_bytes(before)
    _, said, study = sweeps.run(sweeps.plan("second"), "first")
    study.close()
    assert said.startswith("5 of 5")
    assert journal.read_bytes() == before
