"""Programs in turns: only one runs at a time, and each one's clock counts its own turns."""

import importlib
import itertools
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.paths import ROOT

PROGRAMS = ROOT / "benchmarks"
# Burns CPU for a while in a process of its own, and its parent says how much wall time went by.
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


def test_each_clock_counts_its_own_turns_alone(turns):
    begun = time.time()
    (first_end, first), (second_end, second) = turns.in_turns([busy(1.0), busy(1.0)])
    spans = sorted([*first.spans, *second.spans])
    assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
    assert first.clock(begun) == second.clock(begun) == 0
    # What one took in CPU time it took on its own clock, however long the other held it up.
    assert first.clock(first_end) >= 1.0
    assert second.clock(second_end) >= 1.0
    assert second.clock(first_end) > 0
    assert first_end - begun >= first.clock(first_end) + second.clock(first_end)


def test_who_fails_ends_the_others(turns):
    def broken(side: Any) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        turns.in_turns([busy(0.2), broken])


def test_an_interrupt_leaves_nothing_that_stands_still(turns, monkeypatch):
    started: list[int] = []

    def program(side: Any) -> None:
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
            side.roots.append(process.pid)
            started.append(process.pid)

    real = turns._turn

    def interrupted(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(turns, "_turn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        turns.in_turns([program])
    assert not Path(f"/proc/{started[0]}").exists()
