"""Atomic writing of files and folders: readers find the old or the new content, never a part."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(file: Path, content: bytes) -> None:
    """Write a file so that readers find its old or its new content, never a part.

    The content is written to a temporary file in the same folder, which is then renamed.

    Args:
        file: File to write or replace.
        content: New content.
    """
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a mapping to a file as indented JSON; readers find the old or the new content."""
    write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a new folder with files so that it appears complete or not at all.

    The files are written to a temporary folder in the same parent folder, which is then renamed.

    Args:
        folder: The new folder; it must not exist.
        files: Content of each file, by its path relative to the folder.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    try:
        for name, content in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_bytes(content)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
