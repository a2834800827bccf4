"""``--from RUN`` with other data: the best configs of the earlier sweep are trained first."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from mtl.errors import InputError
from sweeps import run
from sweeps.search import dry_run
from sweeps.search.batch_timer import BatchTime
from sweeps.search.budget import Limits
from sweeps.search_file import load
from tests.support.small_data import FRAMES, NAMES, make_dataset, write_space

SPACE: dict[str, Any] = {
    "encoder": {"choice": {"gru": {"encoder.layers": {"min": 1, "max": 2}}, "lstm": {}}},
    "optim.lr": {"min": 1e-3, "max": 1e-1, "log": True},
}


class Stopped(BaseException):
    """End of the simulated driver."""


class Driver:
    """The program with a search that trains nothing: trial n gets the value 1 / (1 + n)."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.steps = folder, 0
        self.limits: Limits
        monkeypatch.chdir(folder)
        for name in ("_search", "finish"):  # the second is called where all trials have ended
            monkeypatch.setattr(run, name, self._search)
        monkeypatch.setattr(run, "this_machine", lambda: (2, 0))
        for data in ("old", "new"):
            sets = {"appearance": FRAMES, **({"geometry": FRAMES} if data == "new" else {})}
            make_dataset(
                folder / data, frames={s: dict.fromkeys(NAMES, f) for s, f in sets.items()}
            )

    def _search(self, plan: Any, limits: Any, *_: Any) -> None:
        self.limits, study = limits, limits.study
        for _step in range(self.steps):
            if (proposal := study.ask()) is None:
                break
            key = (proposal.study, proposal.number)
            trial = limits.folder / "trials" / proposal.signature
            trial.mkdir(parents=True, exist_ok=True)
            (trial / "predictions.parquet").write_text("")
            study.record.report(*key, 1, 1 / (1 + proposal.number))
            study.record.tell(*key, TrialState.COMPLETE)
        raise Stopped

    def __call__(self, name: str, *words: str, steps: int = 20, **sections: Any) -> list[str]:
        """Start or continue a sweep, stop it after some trials; return all trials' overrides."""
        self.steps = steps
        sections = {"space": SPACE, "search": {"trials": 4, "seed": 3}, "fixed": {}, **sections}
        data = "old" if name == "old" else "new"
        file = write_space(self.folder, data, pruner={"kind": "none"}, **sections)
        with pytest.raises(Stopped):
            run.main(["--space", str(file), f"name={name}", *words])
        lines = (self.folder / "runs" / name / "study.journal").read_text().splitlines()
        made = [record for line in lines if "params" in (record := json.loads(line))]
        return [" ".join(record["user_attrs"]["overrides"]) for record in made]


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    return Driver(tmp_path, monkeypatch)


def test_the_best_configs_of_a_sweep_on_other_data_come_first_in_their_order(drive, capsys):
    old = drive("old", search={"trials": 8, "seed": 3})
    assert len(set(old)) == 8
    own = {"trials": 9, "seed": 4, "metric": "valence", "first": [{"optim.lr": 2e-3}]}
    new = drive("new", "--from", "runs/old", search=own)
    assert "old was trained on other data: 5 of its best configs come first\n" in (
        capsys.readouterr().out
    )
    assert "optim.lr=0.002" in new[0]
    assert new[1:6] == old[:5]  # values fall with the number
    assert len(new) == 9
    assert len(load("runs/new/space.yaml").search.first) == 6


def test_a_point_has_the_keys_that_vary_here_with_a_value_in_this_space(drive):
    drive("old", "optim.weight_decay=0.25", "loss=ccc", "head=linear", steps=4)
    space = {
        # gru only, encoder.hidden is a default there, one of loss and the rest is fixed there.
        "encoder": {"choice": {"gru": {"encoder.layers": {"min": 1, "max": 2}}}},
        "encoder.hidden": {"values": [32, 64]},
        "optim.weight_decay": {"min": 0.0, "max": 0.5},
        "loss": {"values": ["mse", "ccc"]},
        "head": {"choice": {"mlp": {"head.widths": {"values": [[16], [32]]}}, "linear": {}}},
        "features": {"values": [["appearance", "geometry"], ["geometry"]]},
        "training.epochs": {"min": 1, "max": 3},
    }
    drive("new", "--from", "runs/old", "optim.lr=0.01", space=space)
    same = {
        "encoder.hidden": 64,
        "optim.weight_decay": 0.25,
        "loss": "ccc",
        "head": "linear",
    }
    first = load("runs/new/space.yaml").search.first
    assert all(same.items() <= point.items() for point in first)
    varied = [{key: point[key] for key in point.keys() - same.keys()} for point in first]
    assert {"encoder": "gru", "encoder.layers": 1} in varied
    assert all(point.keys() <= {"encoder", "encoder.layers"} for point in varied)


def test_each_study_of_a_comparison_gives_its_best_and_gets_what_it_fits(drive):
    compared = {"by": ["encoder"]}
    old = drive("old", search={"trials": 14, "seed": 3}, compare=compared)
    new = drive("new", "--from", "runs/old", search={"trials": 20, "seed": 5}, compare=compared)
    assert new[:10] == old[:10]


@pytest.mark.parametrize("by", ["encoder", "features"])
def test_points_are_at_most_half_of_the_trials_of_each_study(drive, by):
    """The earlier sweep's ``features`` are not in this space, so its points fit both studies."""
    old = drive("old", search={"trials": 14, "seed": 3}, compare={"by": ["encoder"]})
    features = {"features": {"values": [["geometry"], ["appearance", "geometry"]]}}
    space = {**SPACE, **(features if by == "features" else {})}
    search = {"trials": 6, "seed": 5}
    new = drive("new", "--from", "runs/old", search=search, space=space, compare={"by": [by]})
    assert len(new) == 6
    rates = {word for overrides in old for word in overrides.split() if "optim.lr" in word}
    assert sum(not rates.isdisjoint(overrides.split()) for overrides in new) == 4


def test_points_of_several_sweeps_are_together_at_most_half_of_the_trials(drive, capsys):
    """Both earlier sweeps have the same folder name."""
    drive("old", search={"trials": 3, "seed": 3})
    Path("elsewhere").mkdir()
    Path("runs/old").rename("elsewhere/old")
    drive("old", search={"trials": 6, "seed": 4})
    search = {"trials": 10, "seed": 5}
    drive("new", "--from", "elsewhere/old", steps=0, search=search)
    capsys.readouterr()
    new = drive("new", "--from", "runs/old", search=search)
    printed = capsys.readouterr().out
    assert "/elsewhere/old was trained on other data: 3 of its best" in printed
    assert "/runs/old was trained on other data: 2 of its best" in printed
    assert len(load("runs/new/space.yaml").search.first) == 5
    assert len(new) == 10


def test_a_dry_run_of_a_begun_sweep_has_its_points_and_changes_nothing(drive, capsys, monkeypatch):
    drive("old")
    drive("new", "--from", "runs/old", steps=0)
    before = {path: path.read_bytes() for path in Path("runs/new").rglob("*") if path.is_file()}
    plans = []
    monkeypatch.setattr(run, "print_dry_run", lambda plan, *_: plans.append(plan))
    words = ["--space", "space.yaml", "name=new", "--dry-run"]
    assert run.main(words) == 0
    assert run.main([*words, "optim.lr=0.01"]) == 0  # the folder holds another sweep
    assert [len(plan.file.search.first) for plan in plans] == [2, 0]
    assert "runs/old was trained on other data: 2 of its best" in capsys.readouterr().out
    after = {path: path.read_bytes() for path in Path("runs/new").rglob("*") if path.is_file()}
    assert after == before


def test_a_stopped_sweep_goes_on_with_the_points_it_began_with(drive, capsys):
    """The earlier sweep gets more trials in between, and then its folder is removed."""
    drive("old", steps=2)
    command = ("new", "--from", "runs/old")
    search = {"trials": 4, "seed": 4}
    undisturbed = drive("whole", "--from", "runs/old", search=search)
    drive(*command, steps=0, search=search)
    drive("old")
    assert drive(*command, steps=1, search=search) == undisturbed[:1]
    assert drive("new", steps=1, search=search) == undisturbed[:2]  # without --from
    Path("runs/old").rename("runs/moved")
    assert drive(*command, steps=1, search=search) == undisturbed[:3]
    assert drive("new", search=search) == undisturbed
    assert capsys.readouterr().out.count("2 of its best configs come first\n") == 6
    assert list(json.loads(Path("runs/new/environment.json").read_text())["first"]) == [
        str(Path("runs/old").resolve())
    ]


def test_a_sweep_that_began_without_points_takes_them_later(drive):
    old = drive("old", search={"trials": 3, "seed": 3})
    began = drive("new", steps=2, search={"trials": 5, "seed": 4})
    assert drive("new", "--from", "runs/old", search={"trials": 5, "seed": 4}) == [*began, *old]


def test_nothing_is_taken_from_a_sweep_without_a_completed_trial(drive, capsys):
    drive("old", steps=0)
    plain = drive("plain")
    capsys.readouterr()
    assert drive("new", "--from", "runs/old") == plain
    assert "old was trained on other data: 0 of its best configs" in capsys.readouterr().out


def test_the_need_of_disk_space_counts_the_trials_that_the_sweep_has_or_takes_over(drive, capsys):
    drive("new", search={"trials": 9, "seed": 3})
    before = drive.limits.need
    drive("new", search={"trials": 2, "seed": 3})
    assert drive.limits.need == before
    assert (before.trials, before.kept) == (9, 9)
    drive("other", "--from", "runs/new", search={"trials": 3, "seed": 3})
    assert drive.limits.need.kept == 9 + 3
    assert "at most: predictions of 12 trials, weights of 12, " in capsys.readouterr().out


def test_a_dry_run_counts_the_trials_that_would_be_taken_over(drive, capsys, monkeypatch):
    monkeypatch.setattr(dry_run, "time_here", lambda *job: BatchTime(0.5, 0.1, 10**9))
    drive("new", search={"trials": 9, "seed": 3})
    drive("old")
    capsys.readouterr()
    for earlier, trials in (("new", 9 + 9), ("old", 9)):  # "old" has other data
        words = ["--space", "space.yaml", "data=new", "name=other", "search.trials=9", "--dry-run"]
        assert run.main([*words, "--from", f"runs/{earlier}"]) == 0
        assert f"predictions of {trials} trials, weights of {trials}, " in capsys.readouterr().out


def test_what_was_not_there_at_the_first_start_is_taken_at_a_later_one(drive, capsys):
    """Nothing is recorded while there is nothing to take, in an older sweep an empty list."""
    drive("old", steps=0)
    command, search = ("new", "--from", "runs/old"), {"trials": 4, "seed": 4}
    drive(*command, steps=0, search=search)
    environment = Path("runs/new/environment.json")
    recorded = json.loads(environment.read_text())
    assert "first" not in recorded
    printed = capsys.readouterr().out.splitlines()
    (told,) = [line for line in printed if "runs/old" in line]
    assert told.endswith(
        "old was trained on other data: 0 of its best configs come first: none is complete yet; a "
        "later start with --from looks again"
    )
    recorded["first"] = {str(Path("runs/old").resolve()): []}
    environment.write_text(json.dumps(recorded))
    old = drive("old", steps=2)
    new = drive(*command, search=search)
    assert "old was trained on other data: 2 of its best configs come first" in (
        capsys.readouterr().out
    )
    assert new[:2] == old[:2]


def test_configs_of_which_none_is_new_here_are_told_and_not_recorded(drive, capsys):
    drive("old", "optim.lr=0.01", "encoder=gru", space={"encoder.layers": {"values": [1, 2]}})
    space = {"encoder.dropout": {"min": 0.6, "max": 0.9}}
    drive("new", "--from", "runs/old", space=space)
    assert "0 of its best configs come first: none gives another point of this space; a later" in (
        capsys.readouterr().out
    )
    assert "first" not in json.loads(Path("runs/new/environment.json").read_text())


def replace_in_journal(old: str, new: str, count: int = -1) -> None:
    journal = Path("runs/old/study.journal")
    assert old in journal.read_text()
    journal.write_text(journal.read_text().replace(old, new, count))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("encoder=mamba", "encoder = 'mamba' is unknown; known are "),
        ("encoder.gates=3", "encoder.gates is no known key"),
        ("encoder.hidden=0", "encoder.hidden = 0 is refused"),
    ],
)
def test_a_config_that_this_version_lacks_is_left_out_by_name(drive, capsys, config, reason):
    """The best of four configs gets another value, as of a version that knew it."""
    old = drive("old", fixed={"encoder.hidden": 8})
    replace_in_journal('"encoder.hidden=8"', f'"encoder.hidden=8","{config}"', 1)
    new = drive("new", "--from", "runs/old", search={"trials": 6, "seed": 4})
    printed = capsys.readouterr().out
    (told,) = [line for line in printed.splitlines() if "left out" in line]
    assert told.startswith(f"runs/old: trial 0 of old is left out: {reason}")
    assert "runs/old was trained on other data: 3 of its best configs come first" in printed
    rates = [override.split("optim.lr=")[1] for override in (*old, *new)]
    assert rates[4:7] == rates[1:4]


def test_a_config_of_which_no_model_can_be_built_here_is_left_out(drive, capsys):
    widths = {"encoder.hidden": {"values": [12, 16, 24]}, "optim.lr": SPACE["optim.lr"]}
    old = drive("old", "encoder=gru", space=widths, search={"trials": 8, "seed": 3})
    twelve = sum("encoder.hidden=12" in overrides for overrides in old[:5])
    assert 0 < twelve < 5
    space = {**widths, "encoder.hidden": {"values": [*range(8, 3200, 8), 12]}}
    fixed = {"encoder": "transformer", "encoder.heads": 8}
    new = drive(
        "new", "--from", "runs/old", space=space, fixed=fixed, search={"trials": 10, "seed": 5}
    )
    printed = capsys.readouterr().out
    told = [line for line in printed.splitlines() if "left out" in line]
    assert len(told) == twelve
    assert all("of old is left out: encoder.hidden = 12 must be even and" in line for line in told)
    assert f"{5 - twelve} of its best configs come first" in printed
    assert len(new) == 10


def test_a_recorded_point_that_was_changed_is_refused_by_the_name_of_its_run(drive):
    drive("old")
    drive("new", "--from", "runs/old", steps=0)
    environment = Path("runs/new/environment.json")
    text = environment.read_text()
    environment.write_text(text.replace('"encoder": "gru"', '"encoder": "gruu"'))
    assert environment.read_text() != text
    with pytest.raises(InputError) as refused:
        run.main(["--space", "space.yaml", "name=new"])
    place = f'--from {Path("runs/old").resolve()}: encoder = "gruu" is not in space.encoder'
    assert str(refused.value).startswith(place)
    assert str(refused.value).endswith(": start anew (--fresh)")
