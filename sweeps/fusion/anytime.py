"""Fusion during the search: the trials that have ended are fused, and the best result is kept."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mtl.errors import in_one_line
from sweeps.fusion.sweep import SweepFusion

REST_RATIO = 9
"""Ratio of the pause after a fusion to the fusion's own time; 9 uses at most a tenth of a core."""


class AnytimeFusion:
    """Thread that fuses after each trial's end and writes a fused model that scores higher.

    Args:
        fusion: The sweep's fusion.
    """

    def __init__(self, fusion: SweepFusion) -> None:
        self._fusion = fusion
        self._due, self._stopped = threading.Event(), threading.Event()

    def trial_ended(self) -> None:
        """Request a fusion, because a trial has ended."""
        self._due.set()

    @contextmanager
    def running(self, report: Callable[[str], None]) -> Iterator[None]:
        """Run the thread while the context lasts.

        Args:
            report: Prints a message for the user; a failed fusion is reported and the search goes
                on.
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
                # At the sweep's end all is fused again, and an error there ends the program.
                report(f"the trials so far could not be fused: {in_one_line(error)}")
            self._stopped.wait(REST_RATIO * (time.monotonic() - started))
