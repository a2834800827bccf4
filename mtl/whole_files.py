"""Files and folders that a reader finds whole, old or new, whenever it looks."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file beside its place, then put it there."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """``content`` as indented JSON, whole."""
    write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder that does not exist, beside its place, then put it there.

    Args:
        folder: It.
        files: By their path in it.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    try:
        for name, content in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
