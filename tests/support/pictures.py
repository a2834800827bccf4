"""Small image files."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(
    kind: str = "JPEG", mode: str = "RGB", size: int = 24, seed: int = 0, exif: bytes = b""
) -> bytes:
    """Return the bytes of a random image file."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    content = io.BytesIO()
    small.resize((size, size)).convert(mode).save(content, kind, exif=exif)
    return content.getvalue()


def put(root: Path, *files: str, content: bytes | None = None) -> Path:
    """Write image files (or ``content``) under these names below ``root`` and return ``root``."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(encoded() if content is None else content)
    return root
