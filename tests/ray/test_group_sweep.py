"""Whole sweeps through DDP slots, and what budgets and dying slots do to sweeps of either kind."""

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
GOES_ON = "the slot's process died; it goes on after epoch"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def output() -> str:
    return Path("output.txt").read_text()


def rows(folder: Path, trial: FrozenTrial) -> list[dict[str, str]]:
    """A trial's progress.csv; among it each epoch's seconds, never twice the same."""
    file = trial_folder(folder, trial) / "progress.csv"
    return list(csv.DictReader(file.read_text().splitlines())) if file.exists() else []


def trained(folder: Path) -> dict[int, list[dict[str, str]]]:
    return {trial.number: rows(folder, trial) for trial in recorded(folder)}


def assert_goes_on(folder: Path, before: dict[int, list[dict[str, str]]]) -> None:
    """No epoch is lost or trained again, and each follows on the last."""
    now = trained(folder)
    for number, known in before.items():
        assert now[number][: len(known)] == known
    for found in now.values():
        assert [int(row["epoch"]) for row in found] == list(range(1, len(found) + 1))


def in_training(folder: Path, ended: int = 0, epochs: int = 2) -> bool:
    """Whether so many trials have ended and the next one has so many epochs on record."""
    if not (folder / "study.journal").exists():
        return False
    trials = recorded(folder)
    return (
        len(trials) > ended
        and sum(trial.state.is_finished() for trial in trials) == ended
        and (trials[ended].last_step or 0) >= epochs
    )


def wait_for(driver: Driver, holds: Callable[[], bool]) -> None:
    """Until something holds, which it must before the driver ends."""
    wait_until(lambda: holds() or driver.poll() is not None, START_SECONDS, output)
    assert driver.poll() is None, output()


def tree(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def command_line(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""


def left(cluster: Cluster) -> list[object]:
    """Actors and placement groups that are not Ray's own."""
    return [*actors(cluster.dashboard).items(), *placement_groups(cluster.dashboard)]


def train_runs() -> dict[str, str]:
    """The Train runs of the cluster that this process is connected to: status by name."""
    import ray
    from ray.train.v2._internal.state.state_actor import get_state_actor

    runs = ray.get(get_state_actor().get_train_runs.remote()).values()
    return {run.name: run.status.name for run in runs}


def finished_tasks(cluster: Cluster) -> set[str]:
    from ray.util.state import list_tasks

    tasks = list_tasks(address=cluster.dashboard, limit=10_000)
    return {task.name for task in tasks if task.state == "FINISHED"}


def test_a_sweep_of_ddp_workers_stopped_with_ctrl_c_then_killed_and_then_finished(
    planted, ray_address
):
    """First with a cluster of its own, whose listeners are counted, then on one that stays."""
    space_file(
        Path(),
        planted.address,
        name="ddp",
        search={"trials": 2, "seed": 3},
        resources={**ONE, "workers_per_trial": 2},
        pruner={"kind": "none"},
        fixed={**SMALL, "training.epochs": 25},
    )
    folder = Path("runs/ddp")
    # The program itself must see to it that its cluster is not reachable.
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
        wait_until(lambda: not left(cluster), END_SECONDS, lambda: left(cluster))
        wait_until(lambda: not alive(pids), END_SECONDS, lambda: alive(pids))
    assert len(pids) > 4
    assert_goes_on(folder, known)
    known = trained(folder)

    assert main(command) == 0
    trials = recorded(folder)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert_goes_on(folder, known)
    assert {len(found) for found in trained(folder).values()} == {25}
    assert (folder / "submission.txt").exists()
    with connect(ray_address) as cluster:
        wait_until(lambda: not left(cluster), END_SECONDS, lambda: left(cluster))
        # That a trial ended Tune's side of it tells the cluster a little later, unless it is killed
        # before: as it may be after the first with its driver, after the second with the sweep.
        wait_until(
            lambda: any(t.startswith(("ddp/0000 ", "ddp/0001 ")) for t in finished_tasks(cluster)),
            END_SECONDS,
            lambda: finished_tasks(cluster),
        )
        assert train_runs()["ddp-slot-0"] == "FINISHED"


def test_a_trial_whose_slot_is_killed_goes_on_in_another_until_it_has_no_restart_left(
    planted, ray_address, capsys
):
    """And is trained again when that is asked for."""
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
        # Epochs that the first slot sent may come on record after its end; then no more of them.
        wait_for(driver, lambda: GOES_ON in output())
        epochs = len(trained(folder)[0]) + 2
        second_slot, known = kill_slot(driver, cluster, folder, [0, first_slot], epochs)
        assert driver.wait(END_SECONDS) == 0, output()
    assert known[0][: len(before[0])] == before[0]
    assert first_slot != second_slot
    assert output().count(GOES_ON) == 1
    first, second = recorded(folder)
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert first.user_attrs["reason"] == "the slot's process died"
    assert (trial_folder(folder, first) / "error.txt").exists()
    assert 4 <= len(rows(folder, first)) < 60
    assert_goes_on(folder, known)

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
    """Kill a slot that is none of these once the first trial has so many epochs.

    Returns:
        Its process id, and what is trained then.
    """

    def new() -> list[int]:
        return [pid for pid in actors(cluster.dashboard).get("ProcessSlot", []) if pid not in slots]

    wait_for(driver, lambda: bool(new()))
    (slot,) = new()
    wait_for(driver, lambda: in_training(folder, epochs=epochs))
    psutil.Process(slot).kill()
    wait_until(lambda: not alive([slot]), END_SECONDS)
    return slot, trained(folder)


def test_spent_minutes_stop_trials_at_their_next_epoch_and_more_go_on(planted, ray_address, capsys):
    """What is then finished stays as it is when it is begun anew."""
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
    # Nothing answers at this address: what is spent needs no cluster.
    main(["--space", "space.yaml", "--address", "127.0.0.1:1", "budget.minutes=0.0001"])
    assert spent in capsys.readouterr().out
    assert facts(recorded(folder)) == record

    assert main([*command, "budget.minutes=10"]) == 0
    assert [trial.state for trial in recorded(folder)] == [TrialState.COMPLETE] * 2
    assert "goes on after epoch" in capsys.readouterr().out
    assert_goes_on(folder, known)

    files = written(folder)
    assert main([*command, "--fresh", "search.trials=1", "training.epochs=1"]) == 0
    assert "starting a new sweep small-2: " in capsys.readouterr().out
    assert written(folder) == files
    (anew,) = recorded(Path("runs/small-2"))
    assert anew.state == TrialState.COMPLETE
