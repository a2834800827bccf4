"""Fusion while the search runs: after trials end, the best fused model so far is written."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mtl.errors import in_one_line
from sweeps.fusion.sweep import SweepFusion

REST_RATIO = 9
"""Pause after a fusion divided by the fusion's duration; 9 uses at most a tenth of a core."""


class AnytimeFusion:
    """Thread that fuses the ended trials during the search, and writes each better fused model.

    Args:
        fusion: Object that fuses the sweep's trials and writes the fused model.
    """

    def __init__(self, fusion: SweepFusion) -> None:
        self._fusion = fusion
        self._due, self._stopped = threading.Event(), threading.Event()

    def results_changed(self) -> None:
        """Tell the fusing thread to fuse again, because a trial has ended or lost its weights."""
        self._due.set()

    @contextmanager
    def running(self, report: Callable[[str], None]) -> Iterator[None]:
        """Context manager that runs the fusing thread; on leaving it waits for the thread's end.

        Args:
            report: Function that prints a message for the user. An error of a fusion is only
                reported, so that the search continues.
        """
        thread = threading.Thread(target=self._work, args=(report,), name="fusion", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._due.set()
            thread.join()

    def _work(self, report: Callable[[str], None]) -> None:
        while self._due.wait() and not self._stopped.is_set():
            self._due.clear()
            started = time.monotonic()
            try:
                self._fusion.improve()
            except Exception as error:
                # All is fused again at the end of the sweep, and an error there ends the program.
                report(f"the trials so far could not be fused: {in_one_line(error)}")
            self._stopped.wait(REST_RATIO * (time.monotonic() - started))
