"""What a user did wrong, said in one sentence."""


class InputError(ValueError):
    """Bad input: the message says what, where, which value and the fix, in one sentence."""


class TrainingError(RuntimeError):
    """A trial that cannot go on, and where it broke."""


def brief(error: BaseException) -> str:
    """The first line of a library's error, without its full stop."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else repr(error)


def in_one_line(error: BaseException) -> str:
    """An exception's type and first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
