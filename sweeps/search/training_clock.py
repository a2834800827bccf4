"""Clock of a sweep's training time over all starts of the program, for ``budget.minutes``."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from mtl.whole_files import write_json

WRITE_EVERY_SECONDS = 5.0
"""Seconds of training after which the clock's file is written again."""


class TrainingClock:
    """Clock of the seconds in which at least one trial was in training, kept in a file.

    Args:
        path: The clock's file. If it is missing or damaged, the clock starts at 0: a budget that
            starts again is better than a sweep that cannot continue.
        now: Function that returns the seconds of a clock that never goes back.

    Attributes:
        seconds: Training time over all starts of the program.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.seconds = self._written = _read(path)
        self._now = now
        self._last: float | None = None

    def tick(self, training: bool) -> None:
        """Add the time since the last call if a trial was in training.

        The first call adds nothing.

        Args:
            training: True if a trial was in training since the last call.
        """
        now = self._now()
        if training and self._last is not None:
            self.seconds += now - self._last
        self._last = now
        if self.seconds - self._written >= WRITE_EVERY_SECONDS:
            self.close()

    def close(self) -> None:
        """Write the training time in seconds to the clock's file."""
        write_json(self.path, {"training_seconds": round(self.seconds, 3)})
        self._written = self.seconds


def _read(path: Path) -> float:
    try:
        seconds = json.loads(path.read_bytes())["training_seconds"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0.0
    return seconds if type(seconds) is float and 0 <= seconds < math.inf else 0.0
