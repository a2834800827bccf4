"""Files of predictions, written one range of frames after another, as Parquet or text."""

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
"""File name endings: Parquet with all outputs, or the challenge's text format with labels."""
WriteSpan = Callable[[slice, np.ndarray], None]
"""Function that writes the outputs (N, 22) of the next N frames, given as a slice of rows."""


def check_prediction_file(file: Path, overwrite: bool) -> None:
    """Check the path of a file of predictions before the predictions are computed.

    Args:
        file: Path of the file to write.
        overwrite: True if an existing file may be replaced.

    Raises:
        InputError: If the file's ending is unknown, its folder is missing, or the file exists and
            may not be replaced.
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
def writing(file: Path, source: Source) -> Iterator[WriteSpan]:
    """Context manager that writes a file of predictions.

    The file appears when the context ends without an exception; otherwise an existing file is left
    unchanged.

    Args:
        file: Path of the file: Parquet if it ends in ``.parquet``, else the challenge's format.
        source: All frames to predict.

    Yields:
        Function that takes a slice of the source's frames and their outputs (N, 22), and writes
        them. It must be called for consecutive slices.
    """
    open_file = _parquet if file.suffix == ".parquet" else _submission
    with open_file(file, source) as write:
        yield write


@contextmanager
def _parquet(file: Path, source: Source) -> Iterator[WriteSpan]:
    with table.prediction_writer(file, source.names) as write:
        yield lambda span, outputs: write(source.video[span], source.frame[span], outputs)


@contextmanager
def _submission(file: Path, source: Source) -> Iterator[WriteSpan]:
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
