"""Test of a sweep that is started twice and stopped with Ctrl-C: no epoch is lost or repeated."""

import csv
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from mtl.errors import InputError
from sweeps.cluster.connection import connect
from sweeps.run import main
from tests.support.small_sweeps import (
    END_SECONDS,
    SMALL,
    START_SECONDS,
    actors,
    alive,
    facts,
    program,
    recorded,
    space_file,
    trial_folder,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Driver = subprocess.Popen[str]


def progress(folder: Path, trial: FrozenTrial) -> list[dict[str, str]]:
    """Return the rows of a trial's progress.csv; the seconds of each epoch make them unique."""
    file = trial_folder(folder, trial) / "progress.csv"
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text()


def in_early_training(folder: Path) -> bool:
    """Return True if a trial has ended and another one has many of its epochs before it."""
    trials = recorded(folder)
    return any(trial.state.is_finished() for trial in trials) and any(
        not trial.state.is_finished() and 2 <= len(trial.intermediate_values) <= 10
        for trial in trials
    )


def wait_for(driver: Driver, holds: Callable[[], bool], folder: Path) -> None:
    """Wait until a condition is true; fail if the driver ends before."""
    wait_until(lambda: holds() or driver.poll() is not None, START_SECONDS, lambda: output(folder))
    assert driver.poll() is None, output(folder)


def test_ctrl_c_ends_a_sweep_cleanly_and_the_same_command_resumes_it(
    planted, ray_address, tmp_path, monkeypatch, capsys
):
    """While the first driver runs, a second one is refused."""
    monkeypatch.chdir(tmp_path)
    fixed = {**SMALL, "encoder.hidden": 48, "training.epochs": 60}
    pruner = {"kind": "none"}
    space_file(tmp_path, planted.address, pruner=pruner, fixed=fixed)
    folder = tmp_path / "runs" / "small"
    command = ["--space", "space.yaml", "--address", ray_address]
    with connect(ray_address) as cluster:
        with program(tmp_path, *command) as driver:
            wait_until((folder / "study.journal").exists, START_SECONDS, lambda: output(tmp_path))
            with pytest.raises(InputError, match=f"another driver .process {driver.pid}."):
                main(command)
            wait_for(driver, lambda: any(t.intermediate_values for t in recorded(folder)), tmp_path)
            pids = [pid for found in actors(cluster.dashboard).values() for pid in found]
            wait_for(driver, lambda: in_early_training(folder), tmp_path)
            # A terminal sends the signal to the program and to all processes that it started.
            os.killpg(driver.pid, signal.SIGINT)
            assert driver.wait(END_SECONDS) == 130, output(tmp_path)
        wait_until(lambda: not actors(cluster.dashboard), END_SECONDS)
        wait_until(lambda: not alive(pids), END_SECONDS, lambda: alive(pids))
    assert pids

    assert "ended early: interrupted: the same command goes on" in output(tmp_path)
    assert "Traceback" not in output(tmp_path)
    assert (folder / "submission.txt").exists()
    stopped = recorded(folder)
    ended = [trial for trial in stopped if trial.state.is_finished()]
    running = [trial for trial in stopped if not trial.state.is_finished()]
    assert ended
    assert running
    trained = {trial.number: progress(folder, trial) for trial in stopped}
    assert main(command) == 0
    after = recorded(folder)
    assert {trial.state for trial in after} == {TrialState.COMPLETE}
    assert [facts(after)[t.number] for t in ended] == facts(ended)
    for number, rows in trained.items():
        assert progress(folder, after[number])[: len(rows)] == rows
    assert "goes on after epoch" in capsys.readouterr().out
