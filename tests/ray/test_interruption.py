"""A sweep that is killed, stopped with Ctrl-C or started twice: nothing is lost or done again."""

import csv
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from mtl.errors import InputError
from sweeps.cluster.connection import connect
from sweeps.run import main
from tests.support.small_sweeps import (
    END_SECONDS,
    LOOPBACK,
    SMALL,
    START_SECONDS,
    actors,
    alive,
    facts,
    in_mid_training,
    listening,
    program,
    recorded,
    space_file,
    trial_folder,
    wait_until,
    written,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Driver = subprocess.Popen[str]


def progress(folder: Path, trial: FrozenTrial) -> list[dict[str, str]]:
    """The rows of a trial's progress.csv; among them each epoch's seconds, never twice the same."""
    file = trial_folder(folder, trial) / "progress.csv"
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text()


def tree(driver: Driver) -> list[psutil.Process]:
    return [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]


def in_training(folder: Path) -> bool:
    return any(trial.intermediate_values for trial in recorded(folder))


def wait_for(driver: Driver, holds: Callable[[], bool], folder: Path) -> None:
    """Until something holds, which it must before the driver ends."""
    wait_until(lambda: holds() or driver.poll() is not None, START_SECONDS, lambda: output(folder))
    assert driver.poll() is None, output(folder)


def freeze(driver: Driver, holds: Callable[[], bool], folder: Path) -> None:
    """Stop the driver at a moment at which something holds."""
    while True:
        wait_for(driver, holds, folder)
        driver.send_signal(signal.SIGSTOP)
        if holds():
            return
        driver.send_signal(signal.SIGCONT)


def test_kill_in_mid_trial_then_the_same_command(planted, ray_address, tmp_path, monkeypatch):
    """Ends as an undisturbed sweep of the same seed does, and trains no epoch twice."""
    monkeypatch.chdir(tmp_path)
    pruner = {"kind": "asha", "min_epochs": 3, "reduction_factor": 2}
    fixed = {**SMALL, "encoder.hidden": 48, "training.epochs": 6}
    search = {"trials": 4, "seed": 5}
    one = {"concurrent_trials": 1}
    space_file(tmp_path, planted.address, pruner=pruner, fixed=fixed, search=search, resources=one)
    command = ["--space", "space.yaml", "--address", ray_address]
    folder = tmp_path / "runs" / "killed"
    with connect(ray_address) as cluster:
        with program(tmp_path, *command, "name=killed") as driver:
            freeze(driver, lambda: in_mid_training(folder), tmp_path)
            pids = [pid for found in actors(cluster.dashboard).values() for pid in found]
            driver.kill()
            assert driver.wait(END_SECONDS) == -signal.SIGKILL, output(tmp_path)
        wait_until(lambda: not actors(cluster.dashboard), END_SECONDS)
        wait_until(lambda: not alive(pids), END_SECONDS, lambda: alive(pids))
    assert pids

    ended = [trial for trial in recorded(folder) if trial.state.is_finished()]
    (broken,) = [trial for trial in recorded(folder) if not trial.state.is_finished()]
    assert (trial_folder(folder, broken) / "checkpoint.safetensors").exists()
    trained, files = progress(folder, broken), written(folder / "trials")
    kept = {name: t for name, t in files.items() if not name.startswith(_signature(broken))}

    assert main([*command, "name=killed"]) == 0
    after = recorded(folder)
    assert facts(after)[: len(ended)] == facts(ended)
    assert {n: t for n, t in written(folder / "trials").items() if n in kept} == kept
    assert progress(folder, after[broken.number])[: len(trained)] == trained
    assert not list(folder.glob("trials/*/checkpoint.safetensors"))

    assert main([*command, "name=undisturbed"]) == 0
    assert _comparable(after) == _comparable(recorded(tmp_path / "runs" / "undisturbed"))


def _signature(trial: FrozenTrial) -> str:
    return str(trial.user_attrs["signature"])


def _comparable(trials: list[FrozenTrial]) -> list[object]:
    return [(t.number, t.state, t.params, t.intermediate_values, t.user_attrs) for t in trials]


def test_ctrl_c_ends_cleanly_and_the_same_command_goes_on(
    planted, ray_address, tmp_path, monkeypatch, capsys
):
    """With a cluster of its own, on loopback, that no second driver may join in on."""
    monkeypatch.chdir(tmp_path)
    fixed = {**SMALL, "encoder.hidden": 48, "training.epochs": 12}
    pruner = {"kind": "none"}
    space_file(tmp_path, planted.address, pruner=pruner, fixed=fixed)
    folder = tmp_path / "runs" / "small"
    # The program itself must see to it that its cluster is not reachable.
    bare = {k: v for k, v in os.environ.items() if k != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    with program(tmp_path, "--space", "space.yaml", environment=bare) as driver:
        wait_until((folder / "study.journal").exists, START_SECONDS, lambda: output(tmp_path))
        with pytest.raises(InputError, match=f"another driver .process {driver.pid}."):
            main(["--space", "space.yaml"])
        wait_for(driver, lambda: in_training(folder), tmp_path)
        listeners = listening(tree(driver))
        wait_for(driver, lambda: in_mid_training(folder, 2), tmp_path)
        processes = tree(driver)
        # As a terminal does: to the program and all that it started.
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(END_SECONDS) == 130, output(tmp_path)
    assert len(listeners) > 5
    assert {address for address, _ in listeners} <= LOOPBACK, listeners
    _, still = psutil.wait_procs(processes, timeout=END_SECONDS)
    assert not still

    assert "ended early: interrupted: the same command goes on" in output(tmp_path)
    assert "Traceback" not in output(tmp_path)
    assert (folder / "submission.txt").exists()
    stopped = recorded(folder)
    ended = [trial for trial in stopped if trial.state.is_finished()]
    running = [trial for trial in stopped if not trial.state.is_finished()]
    assert ended
    assert running
    trained = {trial.number: progress(folder, trial) for trial in stopped}
    assert main(["--space", "space.yaml", "--address", ray_address]) == 0
    after = recorded(folder)
    assert {trial.state for trial in after} == {TrialState.COMPLETE}
    assert [facts(after)[t.number] for t in ended] == facts(ended)
    for number, rows in trained.items():
        assert progress(folder, after[number])[: len(rows)] == rows
    assert "goes on after epoch" in capsys.readouterr().out
