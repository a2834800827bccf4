"""Exit codes of the programs, and one-sentence messages for the user's errors."""

import io
import sys
from collections.abc import Callable

from mtl.errors import InputError, TrainingError


def run_program(main: Callable[[], int | None]) -> None:
    """Run a program's ``main`` function and exit the process.

    The exit code is the number that ``main`` returns (None counts as 0), 2 after an
    ``InputError``, 130 after Ctrl-C, and 1 if the reader of the output has closed the pipe. After
    an ``InputError`` or Ctrl-C one line is printed to standard error.

    Args:
        main: Function of the program; it takes no arguments.
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


def run_training(train: Callable[[], int]) -> int:
    """Run a training that continues after its last epoch when the same command is started again.

    Args:
        train: Function that trains; it takes no arguments and returns the exit code.

    Returns:
        Exit code: the one that ``train`` returns, 1 after a ``TrainingError``, or 130 after
        Ctrl-C. In the last two cases one line is printed to standard error.
    """
    try:
        return train()
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on after the last epoch", file=sys.stderr)
        return 130
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
