"""Tests of the sweep benchmark: times, memory, and equal trials in plain Optuna and in a slot."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType

import pytest
import torch
from optuna.trial import create_trial

from mtl.dataset import Dataset
from mtl.optimisation.distributed import Workers
from sweeps.planning.compose import compose
from sweeps.records.messages import Epoch, Job
from sweeps.search_file import load
from sweeps.slots.trial_loop import TrialLoop
from tests.support.paths import ROOT

PROGRAMS = ROOT / "benchmarks"
MIB = 2**20
# Dropout is off because two workers draw different masks.
SMALL = {"features": ["motion"], "encoder.hidden": 8, "encoder.dropout": 0.0, "head": "linear"}
USES_THE_STORE = """
import mmap, os, tempfile

with tempfile.NamedTemporaryFile(prefix="plasma-test-", dir="/dev/shm") as file:
    print("before", flush=True)
    input()
    os.posix_fallocate(file.fileno(), 0, {size})
    print("unmapped", flush=True)
    input()
    with mmap.mmap(file.fileno(), {size}) as pages:
        pages[:: mmap.PAGESIZE]
        print("mapped", flush=True)
        input()
"""


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the benchmark scripts importable; they import each other from their folder."""
    monkeypatch.syspath_prepend(PROGRAMS)


@pytest.fixture
def sweep() -> ModuleType:
    return importlib.import_module("sweep")


@pytest.fixture
def plain() -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    yield importlib.import_module("plain_optuna")
    torch.set_num_threads(threads)


@pytest.fixture
def space(sweep: ModuleType, planted: Dataset, tmp_path: Path) -> Path:
    """Search file of three trials with two epochs each."""
    written = sweep.write_space(
        tmp_path / "tiny.yaml",
        Path(planted.address),
        trials=3,
        fixed={**SMALL, "training.epochs": 2},
        space={"optim.lr": {"min": 1e-3, "max": 1e-2, "log": True}},
    )
    assert isinstance(written, Path)
    return written


def at(second: float) -> datetime:
    return datetime.fromtimestamp(1000 + second)


def test_seconds_are_given_with_and_without_the_start_of_ray(sweep):
    trials = [create_trial(value=0.0, params={}, distributions={}) for _ in range(2)]
    for trial, start, end in zip(trials, (12, 10), (20, 31), strict=True):
        trial.datetime_start, trial.datetime_complete = at(start), at(end)
    times = sweep.Times.of(1001.0, 4.0, trials)
    assert times.seconds() == {"less_ray": 26.0, "with_ray": 30.0, "trials": 21.0}


def test_ratios_are_medians_of_pairs(sweep):
    spans = ("less_ray", "with_ray", "trials")
    rounds = [
        {"sweep": dict.fromkeys(spans, ours), "plain": dict.fromkeys(spans, theirs)}
        for ours, theirs in ((1.0, 2.0), (6.0, 4.0), (9.0, 8.0))
    ]
    assert sweep.time_ratios(rounds) == dict.fromkeys(spans, 1.125)


def test_memory_after_the_last_trial_does_not_count(sweep):
    times = sweep.Times(0.0, 0.0, (10.0, 11.0), (20.0, 30.0))
    sizes = {5: 7, 10: 1, 20: 2, 30: 4, 31: 9}
    samples = [(float(when), size * 2**30) for when, size in sizes.items()]
    assert sweep.peak_and_training(samples, times) == {"peak": 7.0, "training": 2.0}


def test_pages_of_the_object_store_count_once_mapped_or_not():
    """Measure a small process, whose PSS depends little on other users of shared libraries."""
    memory_bytes = importlib.import_module("tree_memory").memory_bytes
    size = 64 * MIB
    child = subprocess.Popen(
        [sys.executable, "-c", USES_THE_STORE.format(size=size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child as process:
        assert process.stdin
        assert process.stdout
        measured = {}
        for line in process.stdout:
            measured[line.strip()] = memory_bytes([process.pid])
            process.stdin.write("on\n")
            process.stdin.flush()
    assert measured["unmapped"] - measured["before"] == pytest.approx(size, abs=8 * MIB)
    assert measured["mapped"] - measured["before"] == pytest.approx(size, abs=8 * MIB)


def test_the_search_file_is_the_shipped_one_with_random_search_and_no_pruner(sweep, tmp_path):
    file = load(sweep.write_space(tmp_path / "bench.yaml", tmp_path, trials=5))
    shipped = load(PROGRAMS.parent / "search.yaml")
    assert (file.name, file.search.trials, file.search.sampler) == ("bench", 5, "random")
    assert (file.pruner.kind, file.resources.concurrent_trials) == ("none", 2)
    assert (file.space, file.fixed) == (shipped.space, shipped.fixed)


def test_plain_optuna_trains_the_enqueued_trials_like_a_slot(plain, space, tmp_path):
    drawn = plain.draw(space, tmp_path / "drawn")
    journal = tmp_path / "plain.journal"
    plain.enqueue(journal, drawn)
    plain.work(space, journal)
    ended = plain.ended(journal)
    assert [trial.params for trial in ended] == [trial.params for trial in drawn]
    data = plain.read_data(load(space))
    for trial, config in zip(
        ended, (compose(t.user_attrs["overrides"]) for t in drawn), strict=True
    ):
        job = TrialLoop(Job("alone", config.plain()), config, data.for_trial(config))
        *_, last = (event for event in job.events() if isinstance(event, Epoch))
        assert trial.value == last.result["objective"]
        assert trial.user_attrs["seconds"] > 0


@pytest.mark.extended
@pytest.mark.slow
def test_two_processes_train_each_configuration_together(plain, space, tmp_path):
    drawn = plain.draw(space, tmp_path / "drawn")
    journal = tmp_path / "plain.journal"
    plain.enqueue(journal, drawn)
    with plain.working((space, journal, 0, 2), (space, journal, 1, 2)):
        pass
    ended = plain.ended(journal)
    assert [trial.params for trial in ended] == [trial.params for trial in drawn]
    data = plain.read_data(load(space))
    for trial, config in zip(
        ended, (compose(t.user_attrs["overrides"]) for t in drawn), strict=True
    ):
        epochs, _ = plain.train(config, data.for_trial(config), Workers())
        assert trial.value == pytest.approx(epochs[-1].objective, abs=1e-3)
        assert 0 < trial.user_attrs["epoch_seconds"] < trial.user_attrs["seconds"]


@pytest.mark.extended
@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_is_timed(sweep, space, ray_address, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    times = sweep.run_sweep(space)
    assert len(times.ends) == len(times.starts) == 3
    assert times.begun < times.begun + times.ray < times.starts[0] < times.ends[0]
