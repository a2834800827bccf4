"""Files of predictions, written in parts: Parquet, or the challenge's format."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mtl.ensemble import Source
from mtl.errors import InputError
from mtl.predictions import table
from mtl.predictions.submission import HEADER, submission_lines
from mtl.predictions.table import decide

SUFFIXES = (".parquet", ".txt")
Write = Callable[[slice, np.ndarray], None]
"""Takes rows of the source, one after the other, and their outputs (N, 22)."""


def check_prediction_file(file: Path, overwrite: bool) -> None:
    """Refuse a file that cannot or must not be written.

    Raises:
        InputError: Why, and what to do.
    """
    if file.suffix not in SUFFIXES:
        raise InputError(
            f"--out {file} must end in .parquet (outputs of all frames) or .txt (the challenge's "
            "format)"
        )
    if not file.parent.is_dir():
        raise InputError(f"--out {file}: there is no folder {file.parent}: make it")
    if file.is_dir() or (file.exists() and not overwrite):
        raise InputError(f"--out {file} exists: write another file, or --overwrite it")


@contextmanager
def writing(file: Path, source: Source) -> Iterator[Write]:
    """A prediction file that appears at the end, whole; after an exception there is none."""
    made = _parquet if file.suffix == ".parquet" else _submission
    with made(file, source) as write:
        yield write


@contextmanager
def _parquet(file: Path, source: Source) -> Iterator[Write]:
    with table.prediction_writer(file, source.names) as write:
        yield lambda span, outputs: write(source.video[span], source.frame[span], outputs)


@contextmanager
def _submission(file: Path, source: Source) -> Iterator[Write]:
    unfinished = file.with_name(f"{file.name}.unfinished")
    pattern: str = source.dataset.info["image_name"]
    try:
        with unfinished.open("w") as text:
            text.write(HEADER + "\n")

            def write(span: slice, outputs: np.ndarray) -> None:
                frames = zip(source.video[span].tolist(), source.frame[span].tolist(), strict=True)
                images = [f"{source.names[v]}/{pattern.format(frame=frame)}" for v, frame in frames]
                for line in submission_lines(images, *decide(outputs)):
                    text.write(line + "\n")

            yield write
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
