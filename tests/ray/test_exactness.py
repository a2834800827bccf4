"""Tests that three runs of one sweep, one trial at a time, have equal results.

One run is undisturbed, one is killed five times, and one is a plain Optuna loop.
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
    # Only the CPU gives results that are equal to the last bit.
    "fixed": {**SMALL, "training.epochs": EPOCHS, "training.device": "cpu"},
}

KILL_SEED = 0
KILLS = (("prune", 0.0), ("keep", 0.5), ("new trial", 0.5), ("end", 1.0), ("value", 0.0))
"""Kind of each journal record at which the driver is killed, and the share of it on disk then."""

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
"""Program of a sweep that kills itself while it appends a record and holds Optuna's lock."""

DRIVER_SECONDS = 180
POLL_SECONDS = 0.5
"""Seconds between two readings of the actors of a sweep that is about to be killed."""


class Kill(NamedTuple):
    """Kill of the driver during the append of one journal record.

    Attributes:
        record: Number of the record, from 0.
        share: Share of the bytes of the record that are on disk at the kill.
    """

    record: int
    share: float


@pytest.fixture(scope="module")
def undisturbed(planted, ray_address, tmp_path_factory) -> Path:
    """Run folder of the undisturbed sweep."""
    folder: Path = tmp_path_factory.mktemp("undisturbed")
    space_file(folder, planted.address, **SWEEP)
    run_to_the_end(folder, ray_address)
    return folder / "runs" / "small"


def run_to_the_end(folder: Path, address: str) -> None:
    """Run a sweep to its end in this process; an earlier one in the folder is resumed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["--space", "space.yaml", "--address", address]) == 0


def run_until_killed(folder: Path, address: str, cluster: Cluster, kill: Kill) -> None:
    """Run a sweep until it kills itself, and check that no actor and no process remains."""
    arguments = [*map(str, kill), "--space", "space.yaml", "--address", address]
    pids: set[int] = set()
    output = folder / "output.txt"

    def ended() -> bool:
        pids.update(pid for found in actors(cluster.dashboard).values() for pid in found if pid)
        with suppress(subprocess.TimeoutExpired):
            driver.wait(POLL_SECONDS)
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
    """Return the records of a sweep's journal without their times and writers."""
    lines = (folder / "study.journal").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if "datetime" not in k and k != "worker_id"}
        for line in lines
    ]


def kind_of(record: dict[str, Any]) -> str:
    """Return the kind of a journal record; for a pruning decision, the decision itself."""
    if "user_attr" in record:
        (decision,) = record["user_attr"].values()
        return str(decision)
    kinds = {"intermediate_value": "value", "distributions": "new trial", "state": "end"}
    return next((kind for key, kind in kinds.items() if key in record), "new study")


def crash_points(records: list[dict[str, Any]]) -> list[Kill]:
    """Return the kills in order: one at a random record of each kind in ``KILLS``."""
    random = np.random.default_rng(KILL_SEED)
    found = [[at for at, record in enumerate(records) if kind_of(record) == k] for k, _ in KILLS]
    return sorted(Kill(int(random.choice(at)), s) for at, (_, s) in zip(found, KILLS, strict=True))


def files(folder: Path) -> dict[str, Any]:
    """Return the content of all files of trials by name, without durations in seconds."""
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
    """Return the rows of progress.csv by signature; the seconds of each epoch make them unique."""
    return {
        file.parent.name: list(csv.DictReader(file.read_text().splitlines()))
        for file in (folder / "trials").glob("*/progress.csv")
    }


def test_the_sweep_prunes_and_has_a_record_of_every_kind(undisturbed):
    states = [trial.state for trial in recorded(undisturbed)]
    assert len(states) == TRIALS > startup_trials(TRIALS)
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    kinds = {kind_of(record) for record in journal(undisturbed)}
    assert {kind for kind, _ in KILLS} == kinds - {"new study"}
    points = crash_points(journal(undisturbed))
    assert len({kill.record for kill in points}) == len(KILLS)


def test_a_sweep_killed_at_five_records_equals_the_undisturbed_one(
    undisturbed, planted, ray_address, tmp_path
):
    """Each kill comes at another kind of record.

    The driver is killed before the record of a decision to prune, within the records of a decision
    to keep and of a new trial (torn lines), after the record of a trial's end, and between the
    files of an epoch and the record of its value.
    """
    space_file(tmp_path, planted.address, **SWEEP)
    folder = tmp_path / "runs" / "small"
    records = journal(undisturbed)
    before: dict[str, list[dict[str, str]]] = {}
    files_of_finished: dict[str, int] = {}
    with connect(ray_address) as cluster:
        for kill in crash_points(records):
            run_until_killed(tmp_path, ray_address, cluster, kill)
            left = (folder / "study.journal").read_bytes()
            assert left.count(b"\n") == kill.record + (kill.share == 1)
            assert left.endswith(b"\n") == (kill.share != 0.5)
            assert (folder / "study.journal.lock").is_symlink()
            now = trained(folder)
            for trial in recorded(folder):
                known = len(trial.intermediate_values)
                assert len(now.get(trial.user_attrs["signature"], [])) >= known
            assert no_epoch_is_repeated(before, now)
            assert files_of_finished.items() <= written(folder / "trials").items()
            before, files_of_finished = now, modification_times(folder)

    run_to_the_end(tmp_path, ray_address)
    assert no_epoch_is_repeated(before, trained(folder))
    assert files_of_finished
    assert files_of_finished.items() <= written(folder / "trials").items()
    assert journal(folder) == records
    assert files(folder) == files(undisturbed)
    assert not list(folder.rglob("checkpoint.safetensors"))
    submission = (undisturbed / "submission.txt").read_bytes()
    assert (folder / "submission.txt").read_bytes() == submission


def modification_times(folder: Path) -> dict[str, int]:
    """Return the modification time of each file of the recorded finished trials, in ns.

    Checkpoints are left out: the kill may come between a trial's end and the deletion of its
    checkpoint.
    """
    ended = {t.user_attrs["signature"] for t in recorded(folder) if t.state.is_finished()}
    found = written(folder / "trials")
    return {
        name: time
        for name, time in found.items()
        if name.split("/")[0] in ended and not name.endswith("/checkpoint.safetensors")
    }


def no_epoch_is_repeated(
    before: dict[str, list[dict[str, str]]], now: dict[str, list[dict[str, str]]]
) -> bool:
    """Return True if no epoch that was on disk before has been trained again."""
    return all(now[signature][: len(rows)] == rows for signature, rows in before.items())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Limit torch to one thread, as in a slot."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Plain(NamedTuple):
    """Results of a plain Optuna loop.

    Attributes:
        study: Study with all trials.
        decisions: Pruning decisions of each trial, as the attributes that a sweep writes.
        weights: Weights of each trial by epoch.
    """

    study: optuna.Study
    decisions: list[dict[str, str]]
    weights: list[dict[int, ModelWeights]]


def plain_optuna(space: Path, dataset: Dataset) -> Plain:
    """Run the trials of a search file in a plain Optuna loop: ask, train, report, prune, tell."""
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


def test_each_trial_equals_that_of_a_plain_optuna_loop(undisturbed, planted, one_thread):
    plain = plain_optuna(undisturbed / "space.yaml", planted)
    trials, at_last_epoch = recorded(undisturbed), []
    same = ("number", "params", "distributions", "intermediate_values", "state", "values")
    for trial, expected in zip(trials, plain.study.trials, strict=True):
        for name in same:
            assert getattr(trial, name) == getattr(expected, name), (trial.number, name)
        decisions = {k: v for k, v in trial.user_attrs.items() if k.startswith("decision:")}
        assert decisions == plain.decisions[trial.number]
        weight_files = sorted((trial_folder(undisturbed, trial) / "weights").iterdir())
        assert weight_files
        for file in weight_files:
            epoch = int(file.stem.removeprefix("epoch_"))
            found, expected_weights = load_file(file), plain.weights[trial.number][epoch]
            assert found.keys() == expected_weights.keys()
            for name, weights in found.items():
                assert torch.equal(weights, expected_weights[name]), (trial.number, file, name)
            at_last_epoch.append(epoch == trial.last_step)
    assert any(at_last_epoch)
