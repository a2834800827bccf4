"""Entry point of every program: errors of the user become one sentence and an exit code."""

import io
import sys
from collections.abc import Callable

from mtl.errors import InputError


def run_program(main: Callable[[], int | None]) -> None:
    """Run a program's ``main`` and exit the process.

    The exit code is the one that ``main`` returns (None counts as 0), 2 after an ``InputError``,
    130 after Ctrl-C, and 1 if the reader of the output has closed the pipe.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Without it, lines reach a log file only when a buffer of 8 kB is full.
        sys.stdout.reconfigure(line_buffering=True)
    try:
        sys.exit(main() or 0)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
