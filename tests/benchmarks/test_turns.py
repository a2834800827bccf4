"""Tests of programs that run in turns, each with a clock of its own turns."""

import importlib
import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.paths import ROOT

PROGRAMS = ROOT / "benchmarks"
# This program uses CPU time in a child process.
BUSY = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < {cpu}: pass"])
"""


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PROGRAMS)
    module = importlib.import_module("turns")
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.3)
    monkeypatch.setattr(module, "SECONDS", 0.1)
    return module


def busy(cpu: float) -> Any:
    def program(side: Any) -> float:
        with subprocess.Popen([sys.executable, "-c", BUSY.format(cpu=cpu)]) as process:
            side.roots.append(process.pid)
        assert process.returncode == 0
        return time.time()

    return program


def test_the_clock_of_a_program_counts_only_its_own_turns(turns):
    begun = time.time()
    (first_end, first), (second_end, second) = turns.in_turns([busy(1.0), busy(1.0)])
    spans = sorted([*first.spans, *second.spans])
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
    assert first.clock(begun) == second.clock(begun) == 0
    # A program's own clock covers at least its CPU time, without the turns of the other program.
    assert first.clock(first_end) >= 1.0
    assert second.clock(second_end) >= 1.0
    assert second.clock(first_end) > 0
    assert first_end - begun >= first.clock(first_end) + second.clock(first_end)


def test_a_failing_program_ends_the_others(turns):
    def broken(side: Any) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        turns.in_turns([busy(0.2), broken])


def test_an_interrupt_leaves_no_stopped_process(turns, monkeypatch):
    started: list[int] = []

    def program(side: Any) -> None:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
            side.roots.append(process.pid)
            started.append(process.pid)

    real = turns.Side.signal

    def interrupted(side: Any, number: int) -> None:
        real(side, number)
        if started and number == signal.SIGSTOP:
            raise KeyboardInterrupt

    monkeypatch.setattr(turns.Side, "signal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        turns.in_turns([program])
    assert not Path(f"/proc/{started[0]}").exists()
