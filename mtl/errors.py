"""What a user did wrong, said in one sentence."""


class InputError(ValueError):
    """Bad input: the message says what, where, which value and the fix, in one sentence."""
