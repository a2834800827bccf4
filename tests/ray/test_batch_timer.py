"""Batches timed on a slot of a cluster, and a sweep of weeks that its user stops at a terminal."""

import os
import pty
import sys
import time
from pathlib import Path

import pytest

from mtl.dataset import Dataset
from sweeps.cluster.connection import connect
from sweeps.run import main
from sweeps.search import batch_timer as module
from tests.support.small_sweeps import END_SECONDS, RUN, SMALL, START_SECONDS, recorded, space_file

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_dry_run_times_batches_on_a_slot(
    planted: Dataset, ray_address, tmp_path, monkeypatch, capsys
):
    """With two workers per trial, the share of one of them is timed."""
    space_file(tmp_path, planted.address)
    monkeypatch.chdir(tmp_path)
    start = ["--space", "space.yaml", "--dry-run", "--address", ray_address]
    assert main(start) == 0
    printed = capsys.readouterr().out
    assert ", 2 at once, " in printed
    assert f"timed     on a slot of the cluster at {ray_address}\n" in printed
    assert "not timed" not in printed
    assert " on 2 slots\n" in printed
    assert main([*start, "resources={workers_per_trial: 2}"]) == 0
    printed = capsys.readouterr().out
    assert "the share of one worker was timed" in printed
    assert " on 1 slot\n" in printed
    assert not Path("runs").exists()


def test_a_model_that_fails_on_a_slot_is_a_row(
    planted: Dataset, ray_address, tmp_path, monkeypatch, capsys
):
    space_file(tmp_path, planted.address, fixed={**SMALL, "encoder.hidden": 40_000})
    monkeypatch.chdir(tmp_path)
    assert main(["--space", "space.yaml", "--dry-run", "--address", ray_address]) == 0
    printed = capsys.readouterr().out
    assert "not timed: MemoryError: its training needs more than" in printed
    assert "Traceback" not in printed


def test_where_no_slot_is_free_batches_are_timed_here(
    planted: Dataset, ray_address, tmp_path, monkeypatch, capsys
):
    import ray

    monkeypatch.setattr(module, "SLOT_SECONDS", 2.0)
    space_file(tmp_path, planted.address)
    monkeypatch.chdir(tmp_path)
    with connect(ray_address):

        @ray.remote(num_cpus=ray.cluster_resources()["CPU"])
        class Holder:
            def ready(self) -> bool:
                return True

        holder = Holder.options(lifetime="detached", name="holder", namespace="holder").remote()
        ray.get(holder.ready.remote())
    try:
        assert main(["--space", "space.yaml", "--dry-run", "--address", ray_address]) == 0
    finally:
        with connect(ray_address):
            ray.kill(ray.get_actor("holder", namespace="holder"))
    printed = capsys.readouterr().out
    here = "timed     here, on this machine's CPU with 1 thread, because no slot of the cluster "
    assert f"{here}answers within 2 s\n" in printed


def run_in_terminal(
    folder: Path, *arguments: str, words: str = "", answer: bytes = b""
) -> tuple[int, str]:
    """Run the program in a terminal; return its exit code and what it prints.

    Args:
        folder: Working folder of the program.
        *arguments: Arguments of the program.
        words: Words of the program after which something is typed.
        answer: Text to type then.
    """
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, str(RUN), *arguments])
    text, deadline = "", time.monotonic() + START_SECONDS + END_SECONDS
    while time.monotonic() < deadline:
        try:
            read = os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # the program has ended
            break
        text += read
        if answer and words in text:
            os.write(terminal, answer)
            answer = b""
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text


def test_a_sweep_of_weeks_is_asked_about_once_and_can_be_stopped(
    planted: Dataset, ray_address, tmp_path
):
    """Its first trial trains meanwhile; the same command goes on without asking again."""
    space_file(
        tmp_path,
        planted.address,
        search={"trials": 10**9, "seed": 3},
        pruner={"kind": "none"},
        fixed={**SMALL, "training.epochs": 30},
    )
    start = ["--space", "space.yaml", "--address", ray_address]
    code, printed = run_in_terminal(tmp_path, *start, words="[Y/n]", answer=b"n\n")
    assert code == 130, printed
    assert printed.count("go on? [Y/n]") == 1
    assert "days with" in printed or "days on" in printed
    assert f"timed beside its first trial, in the cluster at {ray_address}" in printed
    trials = recorded(tmp_path / "runs" / "small")
    assert trials  # the question came beside the first trial, not before it
    code, printed = run_in_terminal(tmp_path, *start, "search.trials=1")
    assert "[Y/n]" not in printed
    assert len(recorded(tmp_path / "runs" / "small")) == len(trials)
    assert code == 0, printed


def test_with_yes_nothing_is_asked(planted: Dataset, ray_address, tmp_path):
    space_file(
        tmp_path, planted.address, search={"trials": 10**9, "seed": 3}, pruner={"kind": "none"}
    )
    start = ["--space", "space.yaml", "--address", ray_address, "--yes"]
    ctrl_c = b"\x03"
    code, printed = run_in_terminal(tmp_path, *start, words="sweep takes about", answer=ctrl_c)
    assert code == 130, printed
    assert "[Y/n]" not in printed
