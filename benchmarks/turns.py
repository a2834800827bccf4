"""Programs that run in turns: while one runs the others stand still, and its clock alone goes on.

A shared machine is faster in one minute than in the next, by more than what is to be measured.
Cut into slices of seconds, two programs that take minutes meet the same machine.
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
"""A program's first turn: its start is not cut, whose waiting would end while it stands still."""
SECONDS = 2.0


@dataclass
class Side:
    """A program's processes.

    Attributes:
        roots: Those that the others descend from; the program adds them when it starts them.
        spans: When it ran, in seconds since the epoch.
    """

    roots: list[int] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)

    def clock(self, at: float) -> float:
        """For how many seconds it had run at a time."""
        return sum(max(0.0, min(at, stop) - start) for start, stop in self.spans)

    def signal(self, number: signal.Signals) -> None:
        """To all its processes, also those that start meanwhile."""
        told: set[int] = set()
        while new := {process for process in self._tree() if process.pid not in told}:
            for process in new:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
                told.add(process.pid)

    def _tree(self) -> list[psutil.Process]:
        tree = []
        for root in self.roots:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(root)
                tree += [process, *process.children(recursive=True)]
        return tree


def in_turns(programs: Sequence[Callable[[Side], Any]]) -> list[tuple[Any, Side]]:
    """Run programs in turns, each begun after the one before it has had its first turn.

    Args:
        programs: Each starts its processes, tells its side of them, and waits for their end.

    Returns:
        What each returned, and when it ran.
    """
    sides = [Side() for _ in programs]
    running: list[Future[Any]] = []
    # A shell that ends hangs up a process group some of whose members stand still.
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
    wait([future], seconds)
    side.signal(signal.SIGSTOP)
    stopped = time.time()
    side.spans.append((started, stopped))
