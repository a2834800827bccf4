"""Exceptions with messages for users, and short texts of exceptions."""


class InputError(ValueError):
    """Invalid input; the message names the place, the rule, the value found and the fix."""


class TrainingError(RuntimeError):
    """Failure of a trial that cannot continue; the message names where the training failed."""


def brief(error: BaseException) -> str:
    """Return the first line of an exception's message without its final full stop."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else repr(error)


def in_one_line(error: BaseException) -> str:
    """Return the type of an exception and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
