"""Progress line of a program that processes many frames."""

import sys
import time
from datetime import timedelta

LINE_SECONDS = 10
"""Minimum time between two progress lines, in seconds, if standard output is not a terminal."""


class FrameProgress:
    """Printer of the number of processed frames, the speed and the estimated time left.

    On a terminal one line is overwritten. If the output goes to a file, a new line is printed at
    most every 10 seconds (``LINE_SECONDS``).

    Args:
        frames: Number of all frames.
        done_before: Number of frames that earlier starts of the program have processed. These
            frames count as done, but not for the speed.
    """

    def __init__(self, frames: int, done_before: int = 0) -> None:
        self._frames = frames
        self._terminal = sys.stdout.isatty()
        self._printed_at = time.monotonic()
        self._start = self._speed_start = self._printed_at, done_before

    def update(self, done: int) -> None:
        """Print a line of progress; in a log file (no terminal) at most one line in 10 s.

        Args:
            done: Number of processed frames, including the frames of earlier starts of the program.
        """
        now = time.monotonic()
        last = done == self._frames
        if self._terminal or last or now - self._printed_at >= LINE_SECONDS:
            self._printed_at = now
            print(
                f"{done:,} of {self._frames:,} frames ({done / self._frames:.0%}), "
                f"{self._speed(done, now)}{' ' * 8 * self._terminal}",
                end="\r" if self._terminal and not last else "\n",
                flush=True,
            )
        if self._speed_start is self._start:
            # The first frames also took the time in which the workers start.
            self._speed_start = now, done

    def _speed(self, done: int, now: float) -> str:
        last = done == self._frames
        start_time, start_done = self._start if last else self._speed_start
        rate = (done - start_done) / max(now - start_time, 1e-9)
        if last or self._speed_start is self._start or not rate:
            return f"{rate:,.0f} frames/s"
        left = timedelta(seconds=round((self._frames - done) / rate))
        return f"{rate:,.0f} frames/s, {left} left"
