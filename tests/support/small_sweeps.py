"""Small sweeps for tests: search files, the running program, journals and Ray's state."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from sweeps.records.messages import Event, Job
from tests.support.paths import ROOT

RUN = ROOT / "sweeps" / "run.py"
START_SECONDS = 600
END_SECONDS = 180
EVENT_SECONDS = START_SECONDS
"""Longest wait for an event of a slot; the slot may have to restart its workers first."""
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
SMALL: dict[str, Any] = {"encoder.hidden": 8, "head": "linear", "sequence.window_frames": 16}
ENCODERS = {
    "choice": {
        "gru": {"encoder.layers": {"min": 1, "max": 2}},
        "lstm": {},
        "transformer": {"encoder.heads": {"values": [2, 4]}},
    }
}


def space_file(folder: Path, data: str, **changes: Any) -> Path:
    """Write the search file of a sweep that takes seconds; ``changes`` replace whole sections."""
    settings: dict[str, Any] = {
        "name": "small",
        "data": data,
        "search": {"trials": 4, "seed": 3},
        "pruner": {"kind": "asha", "min_epochs": 1, "reduction_factor": 2},
        "resources": {"concurrent_trials": 2},
        "fixed": {**SMALL, "training.epochs": 3},
        "space": {"encoder": ENCODERS, "optim.lr": {"min": 1e-3, "max": 1e-1, "log": True}},
    }
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump({**settings, **changes}, sort_keys=False))
    return file


def recorded(folder: Path) -> list[FrozenTrial]:
    """Return all trials of a sweep, read from a copy of the journal, which may be in use."""
    copy = folder.parent / f".{folder.name}.journal"
    copy.write_bytes(_complete_lines((folder / "study.journal").read_bytes()))
    storage = JournalStorage(JournalFileBackend(str(copy)))
    studies = optuna.get_all_study_summaries(storage)
    by_study = [
        optuna.load_study(study_name=s.study_name, storage=storage).get_trials() for s in studies
    ]
    copy.unlink()
    return [trial for trials in by_study for trial in trials]


def _complete_lines(journal: bytes) -> bytes:
    return journal[: journal.rfind(b"\n") + 1]


def trial_folder(folder: Path, trial: FrozenTrial) -> Path:
    """Return the folder of a trial's files."""
    return folder / "trials" / str(trial.user_attrs["signature"])


def facts(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    """Return all attributes of trials except times."""
    return [{k: v for k, v in vars(t).items() if "datetime" not in k} for t in trials]


def written(folder: Path) -> dict[str, int]:
    """Return the modification time of each file of a folder, in ns."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


def scores(folder: Path) -> Mapping[str, Any]:
    """Return the content of ``scores.json`` in a folder."""
    content: Mapping[str, Any] = json.loads((folder / "scores.json").read_text())
    return content


def wait_until(
    holds: Callable[[], bool], seconds: float, explain: Callable[[], object] = str
) -> None:
    """Wait until a condition is true; fail after ``seconds`` with the text of ``explain``."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not true after {seconds:g} s: {explain()}"
        time.sleep(0.05)


@contextmanager
def program(
    folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run ``sweeps/run.py`` in the background, in a session of its own as in a terminal."""
    with (folder / "output.txt").open("a") as output:
        process = subprocess.Popen(
            [sys.executable, str(RUN), *arguments],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(END_SECONDS)


def stream(slot: Any, job: Job) -> Iterator[Event]:
    """Yield the events of a job in a slot; fail if one takes longer than ``EVENT_SECONDS``."""
    import ray

    events = slot.train.options(name=job.name, num_returns="streaming").remote(job)
    while True:
        ready, _ = ray.wait([events], timeout=EVENT_SECONDS)
        assert ready, f"{job.name}: no event in {EVENT_SECONDS} s"
        try:
            reference = next(events)
        except StopIteration:
            return
        yield ray.get(reference)


RAY_ACTORS = {
    "ActorLocationTracker",
    "TrainStateActor",
    "_AutoscalingCoordinatorActor",
    "_StatsActor",
}
"""Actors of Ray that remain after a Train run or a Ray Data pipeline."""


def actors(dashboard: str) -> dict[str, list[int]]:
    """Return the process ids of running actors by class, without those in ``RAY_ACTORS``."""
    from ray.util.state import list_actors

    by_class: dict[str, list[int]] = {}
    for actor in list_actors(address=dashboard, limit=10_000):
        if actor.state != "DEAD" and actor.class_name not in RAY_ACTORS:
            by_class.setdefault(actor.class_name, []).append(actor.pid)
    return by_class


def placement_groups(dashboard: str) -> list[str]:
    """Return the ids of all placement groups that are not removed."""
    from ray.util.state import list_placement_groups

    groups = list_placement_groups(address=dashboard, limit=10_000)
    return [group.placement_group_id for group in groups if group.state != "REMOVED"]


def listening(processes: Iterable[psutil.Process]) -> list[tuple[str, str]]:
    """Return listening address and process name for each listening socket of the processes."""
    sockets = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            sockets += [
                (connection.laddr.ip, process.name())
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            ]
    return sockets


def alive(processes: Iterable[int]) -> list[str]:
    """Return "<pid> <name>" of the processes that are running and not zombies."""
    running = []
    for pid in processes:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                running.append(f"{pid} {process.name()}")
    return running
