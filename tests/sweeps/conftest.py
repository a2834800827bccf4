"""Fixtures that write a search file and load it."""

import pytest

from mtl.errors import InputError
from sweeps.search_file import load


@pytest.fixture
def write(tmp_path):
    """Function that writes a search file and returns its path."""

    def write(text):
        path = tmp_path / "space.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def refusal(write):
    """Function that loads a faulty search file and returns the one-line message of its refusal."""

    def refusal(text, overrides=()):
        path = write(text)
        with pytest.raises(InputError) as caught:
            load(path, overrides)
        message = str(caught.value)
        assert "\n" not in message
        assert str(path) in message or "override" in message
        return message.replace(str(path), "FILE")

    return refusal
