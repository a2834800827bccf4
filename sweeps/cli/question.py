"""Question to the user of a terminal, beside a running program."""

import os
import select
import sys
from collections.abc import Callable

POLL_SECONDS = 0.2
"""Seconds between two looks for an answer."""


def on_terminal() -> bool:
    """Return True if a user can be asked: standard input and output are a terminal."""
    # Python has no object for a stream that was closed before its start.
    streams = sys.stdin, sys.stdout
    return all(stream is not None and stream.isatty() for stream in streams)


def answers_no(over: Callable[[], bool]) -> bool:
    """Wait for a line on the terminal, and return True if it says no.

    Any other answer means yes, and so does no answer until the program is over or the terminal is
    gone. Nothing is read while the program is in the background, where reading would stop it.

    Args:
        over: Function that returns True once an answer is of no use any more.
    """
    descriptor = sys.stdin.fileno()
    while not over():
        ready, _, _ = select.select([descriptor], [], [], POLL_SECONDS)
        if ready and _in_foreground(descriptor):
            try:
                return os.read(descriptor, 1024).strip().lower() in (b"n", b"no")
            except OSError:  # The terminal is gone.
                return False
        if ready:
            # The shell's user types; look again later.
            select.select([], [], [], POLL_SECONDS)
    return False


def _in_foreground(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # The terminal does not control this program, so it has no background either.
        return True
