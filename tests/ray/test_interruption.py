"""A sweep that is killed, stopped with Ctrl-C or started twice: nothing is lost or done again."""

import csv
import os
import signal
from pathlib import Path

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState
from sweeping import (
    END_SECONDS,
    LOOPBACK,
    SMALL,
    START_SECONDS,
    facts,
    in_mid_training,
    program,
    recorded,
    space_file,
    trial_folder,
    wait_until,
    written,
)

from mtl.errors import InputError
from sweeps.cluster import connect
from sweeps.run import main

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def progress(folder: Path, trial: FrozenTrial) -> list[dict[str, str]]:
    """The rows of a trial's progress.csv; among them each epoch's seconds, never twice the same."""
    file = trial_folder(folder, trial) / "progress.csv"
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def output(folder: Path) -> str:
    return (folder / "output.txt").read_text()


def slots_alive(address: str) -> int:
    from ray.util.state import list_actors

    with connect(address) as cluster:
        slots = [("class_name", "=", "ProcessSlot")]
        actors = list_actors(address=cluster.dashboard, filters=slots)
    return sum(actor.state != "DEAD" for actor in actors)


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
    with program(tmp_path, *command, "name=killed") as driver:
        wait_until(
            lambda: driver.poll() is not None or in_mid_training(folder),
            START_SECONDS,
            lambda: output(tmp_path),
        )
        driver.kill()
        assert driver.wait(10) == -signal.SIGKILL, output(tmp_path)
    wait_until(lambda: slots_alive(ray_address) == 0, END_SECONDS)

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
        wait_until(
            lambda: driver.poll() is not None or in_mid_training(folder, 2),
            START_SECONDS,
            lambda: output(tmp_path),
        )
        assert driver.poll() is None, output(tmp_path)
        tree = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        listening = _listening(tree)
        # As a terminal does: to the program and all that it started.
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(END_SECONDS) == 130, output(tmp_path)
    assert len(listening) > 5
    assert {address for address, _ in listening} <= LOOPBACK, listening
    _, alive = psutil.wait_procs(tree, timeout=END_SECONDS)
    assert not alive

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


def _listening(processes: list[psutil.Process]) -> list[tuple[str, str]]:
    return [
        (connection.laddr.ip, process.name())
        for process in processes
        if process.is_running()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
