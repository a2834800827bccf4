"""Tests of sweeps with DDP slots, with killed slots, and with a budget of training time."""

import csv
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

from sweeps.cluster.connection import Cluster, connect
from sweeps.run import main
from tests.support.small_sweeps import (
    END_SECONDS,
    LOOPBACK,
    SMALL,
    START_SECONDS,
    actors,
    alive,
    facts,
    listening,
    placement_groups,
    program,
    recorded,
    space_file,
    trial_folder,
    wait_until,
    written,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Driver = subprocess.Popen[str]
ONE = {"concurrent_trials": 1}
SLOT_DIED = "the slot's process died; it goes on after epoch"


@pytest.fixture(autouse=True)
def _run_in_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def output() -> str:
    return Path("output.txt").read_text()


def rows(folder: Path, trial: FrozenTrial) -> list[dict[str, str]]:
    """Return the rows of a trial's progress.csv; the seconds of each epoch make them unique."""
    file = trial_folder(folder, trial) / "progress.csv"
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def trained(folder: Path) -> dict[int, list[dict[str, str]]]:
    """Return the rows of progress.csv by trial number."""
    return {trial.number: rows(folder, trial) for trial in recorded(folder)}


def assert_resumed(folder: Path, before: dict[int, list[dict[str, str]]]) -> None:
    """Check that each epoch is trained once: none is lost, none is repeated."""
    now = trained(folder)
    for number, known in before.items():
        assert now[number][: len(known)] == known
    for found in now.values():
        assert [int(row["epoch"]) for row in found] == list(range(1, len(found) + 1))


def in_training(folder: Path, ended: int = 0, epochs: int = 2) -> bool:
    """Return True if ``ended`` trials have ended and the next one has ``epochs`` epochs or more."""
    if not (folder / "study.journal").exists():
        return False
    trials = recorded(folder)
    return (
        len(trials) > ended
        and sum(trial.state.is_finished() for trial in trials) == ended
        and (trials[ended].last_step or 0) >= epochs
    )


def wait_for(driver: Driver, holds: Callable[[], bool]) -> None:
    """Wait until a condition is true; fail if the driver ends before."""
    wait_until(lambda: holds() or driver.poll() is not None, START_SECONDS, output)
    assert driver.poll() is None, output()


def tree(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def command_line(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def remaining(cluster: Cluster) -> list[object]:
    """Return the actors and placement groups that Ray did not start for itself."""
    return [*actors(cluster.dashboard).items(), *placement_groups(cluster.dashboard)]


def train_runs() -> dict[str, str]:
    """Return the status of each Train run of the connected cluster by name."""
    import ray
    from ray.train.v2._internal.state.state_actor import get_state_actor

    runs = ray.get(get_state_actor().get_train_runs.remote()).values()
    return {run.name: run.status.name for run in runs}


def finished_tasks(cluster: Cluster) -> set[str]:
    from ray.util.state import list_tasks

    tasks = list_tasks(address=cluster.dashboard, limit=10_000)
    return {task.name for task in tasks if task.state == "FINISHED"}


def test_a_sweep_of_ddp_workers_resumes_after_ctrl_c_and_after_a_kill(planted, ray_address):
    """The first run starts a local cluster, which must listen on loopback addresses only.

    The later runs use a cluster that remains.
    """
    space_file(
        Path(),
        planted.address,
        name="ddp",
        search={"trials": 2, "seed": 3},
        resources={**ONE, "workers_per_trial": 2},
        pruner={"kind": "none"},
        fixed={**SMALL, "balancing": "upgrad", "training.epochs": 25},
    )
    folder = Path("runs/ddp")
    # Without this variable the program itself must bind its cluster to loopback addresses.
    bare = {k: v for k, v in os.environ.items() if k != "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"}
    with program(Path(), "--space", "space.yaml", environment=bare) as driver:
        wait_for(driver, lambda: in_training(folder, epochs=1))
        processes = tree(driver.pid)
        listeners = listening(processes)
        workers = [p for p in processes if "RayTrainWorker" in command_line(p)]
        wait_for(driver, lambda: in_training(folder))
        processes = tree(driver.pid)
        os.killpg(driver.pid, signal.SIGINT)
        assert driver.wait(END_SECONDS) == 130, output()
    assert len(workers) == 2
    assert len(listeners) > 5
    assert {address for address, _ in listeners} <= LOOPBACK, listeners
    _, still = psutil.wait_procs(processes, timeout=END_SECONDS)
    assert not still
    assert "2 workers" in output()
    assert "ended early: interrupted: the same command goes on" in output()
    assert "Traceback" not in output()
    known = trained(folder)
    assert [trial.state for trial in recorded(folder)].count(TrialState.RUNNING) == 1

    command = ["--space", "space.yaml", "--address", ray_address]
    with connect(ray_address) as cluster:
        with program(Path(), *command) as driver:
            wait_for(
                driver,
                lambda: in_training(folder, ended=1) and bool(placement_groups(cluster.dashboard)),
            )
            pids = [pid for found in actors(cluster.dashboard).values() for pid in found]
            assert placement_groups(cluster.dashboard)
            driver.kill()
            driver.wait(10)
        wait_until(lambda: not remaining(cluster), END_SECONDS, lambda: remaining(cluster))
        wait_until(lambda: not alive(pids), END_SECONDS, lambda: alive(pids))
    assert len(pids) > 4
    assert_resumed(folder, known)
    known = trained(folder)

    assert main(command) == 0
    trials = recorded(folder)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert_resumed(folder, known)
    assert {len(found) for found in trained(folder).values()} == {25}
    assert (folder / "submission.txt").exists()
    with connect(ray_address) as cluster:
        wait_until(lambda: not remaining(cluster), END_SECONDS, lambda: remaining(cluster))
        # Tune's actor reports the end of a trial's task with a delay, and is killed before if the
        # driver or the sweep ends first. So the end of one of the two tasks is enough.
        wait_until(
            lambda: any(t.startswith(("ddp/0000 ", "ddp/0001 ")) for t in finished_tasks(cluster)),
            END_SECONDS,
            lambda: finished_tasks(cluster),
        )
        assert train_runs()["ddp-slot-0"] == "FINISHED"


@pytest.mark.extended
def test_a_trial_of_a_killed_slot_resumes_in_another_until_no_restart_is_left(
    planted, ray_address, capsys
):
    """The option --retry-failed then trains the failed trial again."""
    space_file(
        Path(),
        planted.address,
        search={"trials": 2, "seed": 3, "sampler": "random"},
        budget={"restarts": 1},
        resources=ONE,
        pruner={"kind": "none"},
        fixed={**SMALL, "training.epochs": 60},
    )
    folder = Path("runs/small")
    command = ["--space", "space.yaml", "--address", ray_address]
    with connect(ray_address) as cluster, program(Path(), *command) as driver:
        first_slot, before = kill_slot(driver, cluster, folder, slots=[0], epochs=2)
        # Epochs of the first slot may be recorded after its end, until the message of its end.
        wait_for(driver, lambda: SLOT_DIED in output())
        epochs = len(trained(folder)[0]) + 2
        second_slot, known = kill_slot(driver, cluster, folder, [0, first_slot], epochs)
        assert driver.wait(END_SECONDS) == 0, output()
    assert known[0][: len(before[0])] == before[0]
    assert first_slot != second_slot
    assert output().count(SLOT_DIED) == 1
    first, second = recorded(folder)
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert first.user_attrs["reason"] == "the slot's process died"
    assert (trial_folder(folder, first) / "error.txt").exists()
    assert 4 <= len(rows(folder, first)) < 60
    assert_resumed(folder, known)

    assert main([*command, "--retry-failed"]) == 0
    assert "1 failed trials are trained again" in capsys.readouterr().out
    again = recorded(folder)
    assert facts(again[:2]) == facts([first, second])
    assert again[2].state == TrialState.COMPLETE
    assert again[2].params == first.params
    assert [int(row["epoch"]) for row in rows(folder, again[2])] == list(range(1, 61))


def kill_slot(
    driver: Driver, cluster: Cluster, folder: Path, slots: list[int], epochs: int
) -> tuple[int, dict[int, list[dict[str, str]]]]:
    """Kill a slot once the first trial has enough epochs on record.

    Args:
        driver: Process of the sweep.
        cluster: Cluster of the sweep.
        folder: Run folder.
        slots: Process ids of earlier slots; the slot to kill is another one.
        epochs: Number of epochs to wait for.

    Returns:
        Process id of the killed slot, and the rows of progress.csv by trial number.
    """

    def new() -> list[int]:
        return [pid for pid in actors(cluster.dashboard).get("ProcessSlot", []) if pid not in slots]

    wait_for(driver, lambda: bool(new()))
    (slot,) = new()
    wait_for(driver, lambda: in_training(folder, epochs=epochs))
    psutil.Process(slot).kill()
    wait_until(lambda: not alive([slot]), END_SECONDS)
    return slot, trained(folder)


@pytest.mark.extended
def test_a_spent_budget_stops_trials_at_an_epoch_and_a_larger_one_resumes_them(
    planted, ray_address, capsys
):
    """The option --fresh then starts another sweep and leaves the finished one unchanged."""
    space_file(
        Path(),
        planted.address,
        search={"trials": 2, "seed": 3},
        resources=ONE,
        pruner={"kind": "none"},
        fixed={**SMALL, "training.epochs": 10},
    )
    folder = Path("runs/small")
    command = ["--space", "space.yaml", "--address", ray_address]
    main([*command, "budget.minutes=0.0001"])
    spent = "ended early: budget.minutes = 0.0001 of training are spent: raise it to go on"
    assert spent in capsys.readouterr().out
    states = [trial.state for trial in recorded(folder)]
    assert states[-1] == TrialState.RUNNING
    known, record = trained(folder), facts(recorded(folder))
    assert 0 < len(known[len(states) - 1]) < 10
    # No cluster runs at this address: a sweep with a spent budget does not need one.
    main(["--space", "space.yaml", "--address", "127.0.0.1:1", "budget.minutes=0.0001"])
    assert spent in capsys.readouterr().out
    assert facts(recorded(folder)) == record

    assert main([*command, "budget.minutes=10"]) == 0
    assert [trial.state for trial in recorded(folder)] == [TrialState.COMPLETE] * 2
    assert "goes on after epoch" in capsys.readouterr().out
    assert_resumed(folder, known)

    files = written(folder)
    assert main([*command, "--fresh", "search.trials=1", "training.epochs=1"]) == 0
    assert "starting a new sweep small-2: " in capsys.readouterr().out
    assert written(folder) == files
    (anew,) = recorded(Path("runs/small-2"))
    assert anew.state == TrialState.COMPLETE
