"""Files that a reader finds whole, old or new, whenever it looks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_whole(file: Path, content: bytes) -> None:
    """Write a file beside its place, then put it there."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """``content`` as indented JSON, whole."""
    write_whole(file, (json.dumps(content, indent=2) + "\n").encode())
