"""How long a sweep has trained, over all its starts: what ``budget.minutes`` counts."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from mtl.whole_files import write_json

WRITE_EVERY_SECONDS = 5.0


class TrainingClock:
    """Seconds in which at least one trial was in training; a file keeps them from start to start.

    Args:
        path: The file. One that is missing counts as 0, and so does a damaged one: its budget
            begins anew, which is better than a sweep that cannot go on.
        now: A clock in seconds that never goes back.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.seconds = self._written = _read(path)
        self._now = now
        self._last: float | None = None

    def tick(self, training: bool) -> None:
        """Add the time since the last tick; the first one of a start only starts the clock.

        Args:
            training: Whether a trial was in training since then; if not, nothing is added.
        """
        now = self._now()
        if training and self._last is not None:
            self.seconds += now - self._last
        self._last = now
        if self.seconds - self._written >= WRITE_EVERY_SECONDS:
            self.close()

    def close(self) -> None:
        """Write what the ticks added up to."""
        write_json(self.path, {"training_seconds": round(self.seconds, 3)})
        self._written = self.seconds


def _read(path: Path) -> float:
    try:
        seconds = json.loads(path.read_bytes())["training_seconds"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0.0
    return seconds if type(seconds) is float and 0 <= seconds < math.inf else 0.0
