"""How far a program over many frames has come, and when it will be done."""

import sys
import time
from datetime import timedelta

LINE_SECONDS = 10


class FrameProgress:
    """One line on a terminal, one now and then elsewhere.

    Args:
        frames: How many there are.
        already: How many of them were done before: they count as done, not for the speed.
    """

    def __init__(self, frames: int, already: int = 0) -> None:
        self.frames = frames
        self.terminal = sys.stdout.isatty()
        self.said = time.monotonic()
        self.begun = self.since = self.said, already

    def at(self, done: int) -> None:
        """``done`` frames are done, those of before included."""
        now = time.monotonic()
        last = done == self.frames
        if self.terminal or last or now - self.said >= LINE_SECONDS:
            self.said = now
            print(
                f"{done:,} of {self.frames:,} frames ({done / self.frames:.0%}), "
                f"{self._speed(done, now)}{' ' * 8 * self.terminal}",
                end="\r" if self.terminal and not last else "\n",
                flush=True,
            )
        if self.since is self.begun:
            # What came first took the workers' start too, which says nothing of the others.
            self.since = now, done

    def _speed(self, done: int, now: float) -> str:
        last = done == self.frames
        when, before = self.begun if last else self.since
        rate = (done - before) / max(now - when, 1e-9)
        if last or self.since is self.begun or not rate:
            return f"{rate:,.0f} frames/s"
        left = timedelta(seconds=round((self.frames - done) / rate))
        return f"{rate:,.0f} frames/s, {left} left"
