"""The best so far, at any time: trials are fused beside the search, as they end."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mtl.errors import in_one_line
from sweeps.fusion.sweep import SweepFusion

REST = 9
"""After a fusion so many times as long nothing is fused: it takes a tenth of one core at most."""


class AnytimeFusion:
    """A thread that fuses when a trial has ended, and writes what scores higher on ``select``."""

    def __init__(self, fusion: SweepFusion) -> None:
        self._fusion = fusion
        self._due, self._over = threading.Event(), threading.Event()

    def due(self) -> None:
        """A trial has ended."""
        self._due.set()

    @contextmanager
    def saying(self, say: Callable[[str], None]) -> Iterator[None]:
        """Fuse as long as this lasts; what goes wrong is said and the search goes on."""
        thread = threading.Thread(target=self._work, args=(say,), name="fusion", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._due.set()
            thread.join()

    def _work(self, say: Callable[[str], None]) -> None:
        while self._due.wait() and not self._over.is_set():
            self._due.clear()
            started = time.monotonic()
            try:
                self._fusion.improve()
            except Exception as error:
                # Not the search's trouble: at its end all is fused again, and an error ends it.
                say(f"the trials so far could not be fused: {in_one_line(error)}")
            self._over.wait(REST * (time.monotonic() - started))
