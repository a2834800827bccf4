"""Exceptions with messages for users, and functions that shorten texts for messages."""


class InputError(ValueError):
    """Invalid input; the message names the place, the rule, the value found and the fix."""


class TrainingError(RuntimeError):
    """Failure that ends a trial; the message names where the training failed."""


def brief(error: BaseException) -> str:
    """Return the first line of an exception's message, without a full stop at the end."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else repr(error)


def in_one_line(error: BaseException) -> str:
    """Return ``TYPE: MESSAGE`` of an exception, with only the first line of the message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def shortened(text: str) -> str:
    """Return a text of at most 80 characters; a longer one is cut and ends with three dots."""
    return text if len(text) <= 80 else f"{text[:77]}..."
