"""Files that are complete or absent, whatever happens while they are written."""

from pathlib import Path

import pytest

from mtl.whole_files import write_atomically, write_json


def test_a_reader_of_the_old_file_sees_all_of_it(tmp_path):
    file = tmp_path / "scores.json"
    file.write_bytes(b"old content")
    with file.open("rb") as reader:
        write_atomically(file, b"new")
        assert reader.read() == b"old content"
    assert file.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "scores.json"
    write_json(file, {"score": 1})
    before = file.read_bytes()

    write = Path.write_bytes

    def half(path, content):
        write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        write_json(file, {"score": 2})
    assert file.read_bytes() == before
