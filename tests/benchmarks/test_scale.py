"""Tests of the benchmark of large sweeps: fake slots, stopwatch, and the program on few trials."""

import datetime
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from sweeps.search_file import load
from sweeps.study.journal import JOURNAL, Journal
from tests.support.paths import ROOT

PROGRAM = ROOT / "benchmarks" / "scale.py"


@pytest.fixture
def fake_slots(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    monkeypatch.setattr("os.fsync", lambda _: None)
    import fake_slots

    return fake_slots


@pytest.fixture
def scale(fake_slots: ModuleType) -> ModuleType:
    import scale

    return scale


def sweep(fake_slots: ModuleType, folder: Path) -> list[tuple[Any, ...]]:
    """Run twelve trials in three slots; check that no more than three run at once."""
    file = load(ROOT / "search.yaml", [])
    with closing(fake_slots.open_study(folder, file, 12, "tpe")) as study:
        for _ in fake_slots.FakeSlots(study, 3, 20, fake_slots.Stopwatch()):
            assert study.record.counts()["RUNNING"] <= 3
        assert study.done
        return [(t.params, t.intermediate_values, t.state) for t in study.record.trials()["demo"]]


def test_a_sweep_on_the_virtual_clock_is_reproducible(
    fake_slots: ModuleType, tmp_path: Path
) -> None:
    trials = sweep(fake_slots, tmp_path / "one")
    assert trials == sweep(fake_slots, tmp_path / "two")
    assert {state for *_, state in trials} == {TrialState.COMPLETE, TrialState.PRUNED}


def test_the_stopwatch_counts_nested_calls_of_one_kind_once(
    fake_slots: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Study:
        @staticmethod
        def tell(times: int) -> None:
            Study.write()
            if times > 1:
                Study.tell(times - 1)

        @staticmethod
        def write() -> None:
            ticks.append(1)

    ticks: list[int] = []
    watch = fake_slots.Stopwatch()
    watch.watch(Study, "tell", "study")
    watch.watch(Study, "write", "disk")
    Study.write()
    assert not watch.lap()
    monkeypatch.setattr(fake_slots, "time", Clock(ticks))
    Study.tell(3)
    assert watch.lap() == {"study": 3000, "study cpu": 3000, "disk": 3000, "disk cpu": 3000}
    assert not watch.lap()


class Clock:
    """Clock that advances by one second with each write."""

    def __init__(self, ticks: list[int]) -> None:
        self.perf_counter = self.thread_time = lambda: len(ticks)


def test_the_times_of_a_real_trial_are_read_from_its_files(
    scale: ModuleType, tmp_path: Path
) -> None:
    storage = Journal(tmp_path / JOURNAL)
    study = optuna.create_study(study_name="scale", storage=storage)
    for number, (start, end) in enumerate([(0, 2), (1, 4)]):
        trial = create_trial(value=0.0)
        noon = datetime.datetime(2026, 1, 1, 12)
        trial.datetime_start = noon + datetime.timedelta(seconds=start)
        trial.datetime_complete = noon + datetime.timedelta(seconds=end)
        study.add_trial(trial)
        folder = tmp_path / "trials" / str(number)
        folder.mkdir(parents=True)
        (folder / "progress.csv").write_text("epoch,seconds\n1,0.5\n2,0.25\n")
    times = scale.wall_times(tmp_path)
    assert times == {"slot": 4000.0, "training": 750.0, "on_record": 2500.0}


def program(*words: str | int) -> tuple[dict[str, Any], str]:
    command = [sys.executable, PROGRAM, "--sizes", "12", "30", "--late", "3", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), done.stdout


@pytest.mark.extended
def test_program_ends_with_one_json_line() -> None:
    result, printed = program("--real-trials", 0)
    assert [row["trials"] for row in result["sizes"]] == [12, 30]
    for row in result["sizes"]:
        for costs in (row["run"], row["random"], row["tpe"]):
            assert costs["study"] > costs["sampling"] > 0
            assert costs["study"] > costs["disk"] > 0
    assert result["sizes"][0]["random"]["ratio"] == 1
    assert result["reopen_s"] > 0
    assert result["late_to_early"] > 0
    assert "| 30 | " in printed
    assert "real" not in result


@pytest.mark.extended
@pytest.mark.ray
@pytest.mark.slow
def test_real_slots_are_measured_beside_the_fake_ones(ray_address: str) -> None:
    result, printed = program("--real-trials", 3, "--address", ray_address)
    real = result["real"]
    assert real["trials"] == 3
    assert real["slot"] > real["on_record"] > real["training"] > 0
    assert real["real"]["study"] > 0
    assert real["fake"]["study"] > 0
    assert "| a slot in all | " in printed
