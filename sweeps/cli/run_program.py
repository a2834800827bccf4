"""What every program shares: a user's mistake is one sentence and exit code 2."""

import io
import sys
from collections.abc import Callable

from mtl.errors import InputError


def run_program(main: Callable[[], int | None]) -> None:
    """Run a program's ``main`` and exit: 0 or its own code, 2 after an ``InputError``, 130 after
    Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file shows a line when it happens
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
