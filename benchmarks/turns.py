"""Fair comparison of programs on a shared machine: they run in turns of a few seconds.

The speed of a shared machine changes between minutes by more than the difference to be measured.
Programs that alternate every few seconds run under the same conditions. While one program runs, the
other programs' processes are stopped by a signal. Each program has a clock that counts only the
time in which the program runs.
"""

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

FIRST_SECONDS = 30.0
"""Length of a program's first turn, so long that the program's start is not interrupted.

A start that is interrupted may exceed timeouts.
"""

SECONDS = 2.0
"""Length of every turn of a program after its first one."""


@dataclass
class Side:
    """Processes and running times of one of the programs that run in turns.

    Attributes:
        roots: Ids of the program's main processes, which the caller appends as they start. All
            their descendants belong to the program too.
        spans: Start and stop of each turn, in seconds since the epoch.
    """

    roots: list[int] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)

    def clock(self, at: float) -> float:
        """Return the seconds that the program has run before a time, without its stopped times.

        Args:
            at: The time, in seconds since the epoch.
        """
        return sum(max(0.0, min(at, stop) - start) for start, stop in self.spans)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the program, also to those started while sending.

        Args:
            number: The signal.
        """
        signalled: set[int] = set()
        while new := {process for process in self._tree() if process.pid not in signalled}:
            for process in new:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
                signalled.add(process.pid)

    def _tree(self) -> list[psutil.Process]:
        tree = []
        for root in self.roots:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(root)
                tree += [process, *process.children(recursive=True)]
        return tree


def in_turns(programs: Sequence[Callable[[Side], Any]]) -> list[tuple[Any, Side]]:
    """Run programs in turns of two seconds, so that only one of them runs at a time.

    The first turn of each program is longer (30 s); each program is started when the first turn of
    the program before is over.

    Args:
        programs: One function per program, which starts the program's processes, appends their ids
            to ``roots`` of the given ``Side``, and waits for their end.

    Returns:
        For each program, a tuple of the function's result and the ``Side`` with the program's
        process ids and the times of the program's turns.
    """
    sides = [Side() for _ in programs]
    running: list[Future[Any]] = []
    # The end of a shell sends SIGHUP to its process group if a member of the group is stopped.
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with ThreadPoolExecutor(len(programs)) as pool:
        try:
            for side, program in zip(sides, programs, strict=True):
                started = time.time()
                running.append(pool.submit(program, side))
                _turn(side, running[-1], started, FIRST_SECONDS)
            while not all(future.done() for future in running):
                for side, future in zip(sides, running, strict=True):
                    if not future.done():
                        started = time.time()
                        side.signal(signal.SIGCONT)
                        _turn(side, future, started, SECONDS)
        except BaseException:
            for side in sides:
                side.signal(signal.SIGKILL)
            raise
        finally:
            signal.signal(signal.SIGHUP, before)
    return [(future.result(), side) for future, side in zip(running, sides, strict=True)]


def _turn(side: Side, future: Future[Any], started: float, seconds: float) -> None:
    """Let a program run for some seconds, then stop it and record the turn's start and stop.

    Args:
        side: Processes and recorded turns of the program.
        future: Future result of the program; the turn is shorter if the program ends before.
        started: Start of the turn, in seconds since the epoch.
        seconds: Length of the turn.
    """
    wait([future], seconds)
    side.signal(signal.SIGSTOP)
    stopped = time.time()
    side.spans.append((started, stopped))
