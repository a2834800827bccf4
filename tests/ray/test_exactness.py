"""One sweep thrice, one trial at a time: undisturbed, killed five times on its way, and as a plain
Optuna loop over the same training.
"""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file

from mtl.dataset import Dataset
from mtl.training.inference import ModelWeights
from mtl.training.trainer import Trainer
from sweeps.cluster.connection import Cluster, connect
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose
from sweeps.planning.plan import make_plan
from sweeps.run import main
from sweeps.search_file import load
from sweeps.study.pruner import rungs
from sweeps.study.sampler import make_sampler, startup_trials
from sweeps.train import FeatureFiles
from tests.support.small_sweeps import (
    END_SECONDS,
    SMALL,
    actors,
    alive,
    recorded,
    space_file,
    trial_folder,
    wait_until,
    written,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

EPOCHS, TRIALS, SWEEP_SEED = 6, 8, 5
RUNGS = rungs(1, 2, EPOCHS)
SWEEP: dict[str, Any] = {
    "search": {"trials": TRIALS, "seed": SWEEP_SEED},
    "pruner": {"kind": "asha", "min_epochs": 1, "reduction_factor": 2},
    "resources": {"concurrent_trials": 1},
    # Equal to the last bit is what the CPU computes.
    "fixed": {**SMALL, "training.epochs": EPOCHS, "training.device": "cpu"},
}

KILL_SEED = 0
KILLS = (("prune", 0.0), ("keep", 0.5), ("new trial", 0.5), ("end", 1.0), ("value", 0.0))
"""What a record says at which the driver dies, and how much of it is on disk then."""

DRIVER = """
import os, signal, sys
from pathlib import Path
from sweeps.run import main
from sweeps.study.journal import JournalFile

record, share = int(sys.argv[1]), float(sys.argv[2])
append, fsync = JournalFile.append_logs, os.fsync

def append_or_die(self, logs):
    before = Path(self._file_path).read_bytes()

    def die(file):
        end = os.fstat(file).st_size
        os.truncate(file, len(before) + int(share * (end - len(before))))
        os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = die if before.count(b"\\n") == record else fsync
    append(self, logs)

JournalFile.append_logs = append_or_die
sys.exit(main(sys.argv[3:]))
"""
"""A sweep that dies in mid-append, with Optuna's lock in its hands."""

DRIVER_SECONDS = 180
LOOK_SECONDS = 0.5
"""Between two looks at the actors of a sweep whose driver is about to die."""


class Kill(NamedTuple):
    """In the append of which record, counted from 0, and how much of it is on disk then."""

    record: int
    share: float


@pytest.fixture(scope="module")
def undisturbed(planted, ray_address, tmp_path_factory) -> Path:
    """The folder of the sweep that nobody disturbs."""
    folder: Path = tmp_path_factory.mktemp("undisturbed")
    space_file(folder, planted.address, **SWEEP)
    go_on(folder, ray_address)
    return folder / "runs" / "small"


def go_on(folder: Path, address: str) -> None:
    """A sweep to its end, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["--space", "space.yaml", "--address", address]) == 0


def die(folder: Path, address: str, cluster: Cluster, kill: Kill) -> None:
    """Run a sweep until its driver dies, which must leave no actor and no actor's process."""
    arguments = [*map(str, kill), "--space", "space.yaml", "--address", address]
    pids: set[int] = set()
    output = folder / "output.txt"

    def ended() -> bool:
        pids.update(pid for found in actors(cluster.dashboard).values() for pid in found if pid)
        with suppress(subprocess.TimeoutExpired):
            driver.wait(LOOK_SECONDS)
        return driver.poll() is not None

    with output.open("a") as file:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(ended, DRIVER_SECONDS, output.read_text)
        finally:
            driver.kill()
            driver.wait()
    assert driver.returncode == -signal.SIGKILL, output.read_text()
    assert pids
    wait_until(lambda: not actors(cluster.dashboard), END_SECONDS)
    wait_until(lambda: not alive(pids), END_SECONDS, lambda: alive(pids))


def journal(folder: Path) -> list[dict[str, Any]]:
    """The records of a sweep's journal, but for when and by which process they were written."""
    lines = (folder / "study.journal").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if "datetime" not in k and k != "worker_id"}
        for line in lines
    ]


def says(record: dict[str, Any]) -> str:
    """What one record of the journal says."""
    if "user_attr" in record:
        (decision,) = record["user_attr"].values()
        return str(decision)
    kinds = {"intermediate_value": "value", "distributions": "new trial", "state": "end"}
    return next((kind for key, kind in kinds.items() if key in record), "new study")


def crash_points(records: list[dict[str, Any]]) -> list[Kill]:
    """Where the driver dies, one after the other: of each of the ``KILLS`` any such record."""
    random = np.random.default_rng(KILL_SEED)
    found = [[at for at, record in enumerate(records) if says(record) == k] for k, _ in KILLS]
    return sorted(Kill(int(random.choice(at)), s) for at, (_, s) in zip(found, KILLS, strict=True))


def files(folder: Path) -> dict[str, Any]:
    """All that the trials of a sweep left: nothing of it but seconds differs in another."""
    found: dict[str, Any] = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in (folder / "trials").rglob("*")
        if file.is_file() and file.name != "progress.csv"
    }
    for signature, rows in trained(folder).items():
        found[f"trials/{signature}/progress.csv"] = [
            {k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows
        ]
    for file in (folder / "trials").glob("*/scores.json"):
        scores = json.loads(file.read_text())
        del scores["prediction"]["seconds"]
        found[str(file.relative_to(folder))] = scores
    return found


def trained(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The epochs of each trial; the seconds of one are never the same when it is trained again."""
    return {
        file.parent.name: list(csv.DictReader(file.read_text().splitlines()))
        for file in (folder / "trials").glob("*/progress.csv")
    }


def test_the_sweep_has_what_can_go_wrong(undisturbed):
    states = [trial.state for trial in recorded(undisturbed)]
    assert len(states) == TRIALS > startup_trials(TRIALS)
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    said = [says(record) for record in journal(undisturbed)]
    assert {kind for kind, _ in KILLS} == set(said) - {"new study"}
    points = crash_points(journal(undisturbed))
    assert len({kill.record for kill in points}) == len(KILLS)


def test_killed_at_five_points_it_ends_as_undisturbed(undisturbed, planted, ray_address, tmp_path):
    """Between a rung's value and the decision that prunes, in the records of a decision and of a
    new trial (torn lines), after a trial's end, and between an epoch's files and its record.
    """
    space_file(tmp_path, planted.address, **SWEEP)
    folder = tmp_path / "runs" / "small"
    records = journal(undisturbed)
    before: dict[str, list[dict[str, str]]] = {}
    of_ended: dict[str, int] = {}
    with connect(ray_address) as cluster:
        for kill in crash_points(records):
            die(tmp_path, ray_address, cluster, kill)
            left = (folder / "study.journal").read_bytes()
            assert left.count(b"\n") == kill.record + (kill.share == 1)
            assert left.endswith(b"\n") == (kill.share != 0.5)
            assert (folder / "study.journal.lock").is_symlink()
            now = trained(folder)
            for trial in recorded(folder):
                known = len(trial.intermediate_values)
                assert len(now.get(trial.user_attrs["signature"], [])) >= known
            assert is_kept(before, now)
            assert of_ended.items() <= written(folder / "trials").items()
            before, of_ended = now, files_of_ended(folder)

    go_on(tmp_path, ray_address)
    assert is_kept(before, trained(folder))
    assert of_ended
    assert of_ended.items() <= written(folder / "trials").items()
    assert journal(folder) == records
    assert files(folder) == files(undisturbed)
    assert not list(folder.rglob("checkpoint.safetensors"))
    submission = (undisturbed / "submission.txt").read_bytes()
    assert (folder / "submission.txt").read_bytes() == submission


def files_of_ended(folder: Path) -> dict[str, int]:
    """Return when each file of the trials that have ended on record was last written, in ns.

    Without checkpoints: the kill may come between a trial's end and the end of its checkpoint.
    """
    ended = {t.user_attrs["signature"] for t in recorded(folder) if t.state.is_finished()}
    found = written(folder / "trials")
    return {
        name: time
        for name, time in found.items()
        if name.split("/")[0] in ended and not name.endswith("/checkpoint.safetensors")
    }


def is_kept(before: dict[str, list[dict[str, str]]], now: dict[str, list[dict[str, str]]]) -> bool:
    """Whether no epoch that was on disk before has been trained again."""
    return all(now[signature][: len(rows)] == rows for signature, rows in before.items())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many of torch's as a slot has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Plain(NamedTuple):
    """What a plain Optuna loop knows of its trials, in their order."""

    study: optuna.Study
    decisions: list[dict[str, str]]
    weights: list[dict[int, ModelWeights]]


def plain_optuna(space: Path, dataset: Dataset) -> Plain:
    """Ask, train, report, should_prune, tell."""
    plan = make_plan(load(space), dataset)
    data = SlotData(FeatureFiles(dataset, plan.listing), plan.listing, plan.parts)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    plain = Plain(study, [], [])
    for number in range(TRIALS):
        study.sampler = make_sampler("tpe", SWEEP_SEED, number, startup_trials(TRIALS))
        trial = study.ask()
        config = compose(plan.space.sample(trial))
        trainer = Trainer(config, data.for_trial(config))
        plain.decisions.append({})
        plain.weights.append({})
        for result in trainer.epochs():
            plain.weights[-1][result.epoch] = trainer.weights()
            trial.report(result.objective, result.epoch)
            stops = trial.should_prune()
            if result.epoch in RUNGS:
                plain.decisions[-1][f"decision:{result.epoch}"] = "prune" if stops else "keep"
            if stops:
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, result.objective)
    return plain


def test_each_trial_is_that_of_a_plain_optuna_loop(undisturbed, planted, one_thread):
    plain = plain_optuna(undisturbed / "space.yaml", planted)
    trials, last_kept = recorded(undisturbed), []
    same = ("number", "params", "distributions", "intermediate_values", "state", "values")
    for trial, expected in zip(trials, plain.study.trials, strict=True):
        for name in same:
            assert getattr(trial, name) == getattr(expected, name), (trial.number, name)
        decisions = {k: v for k, v in trial.user_attrs.items() if k.startswith("decision:")}
        assert decisions == plain.decisions[trial.number]
        kept = sorted((trial_folder(undisturbed, trial) / "weights").iterdir())
        assert kept
        for file in kept:
            epoch = int(file.stem.removeprefix("epoch_"))
            found, expected_weights = load_file(file), plain.weights[trial.number][epoch]
            assert found.keys() == expected_weights.keys()
            for name, weights in found.items():
                assert torch.equal(weights, expected_weights[name]), (trial.number, file, name)
            last_kept.append(epoch == trial.last_step)
    assert any(last_kept)
