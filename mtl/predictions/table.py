"""Predictions of frames: Parquet files of predictions, and conversion of outputs to labels.

Shapes: N frames; 22 output columns (``OUTPUT_COLUMNS``) and 15 label columns (``LABEL_COLUMNS``).
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Float32, Int32

from mtl.errors import InputError
from mtl.evaluation.metrics import decisions
from mtl.tasks import LABEL_COLUMNS, OUTPUT_COLUMNS, TASKS

Write = Callable[
    [Int32[np.ndarray, " N"], Int32[np.ndarray, " N"], Float32[np.ndarray, "N 22"]], None
]
"""Function that appends rows (video indices, frame numbers, outputs) to a file of predictions."""
NAMES_KEY = b"videos"
"""Key of the list of all video names in the metadata of a Parquet file of predictions.

The column ``video`` alone does not keep the names of videos without rows.
"""


@dataclass(frozen=True)
class Predictions:
    """Outputs of a model for N frames of some videos.

    Attributes:
        video: Video of each frame, as an index into ``names``, shape (N,).
        frame: Frame number within the video, shape (N,).
        names: Names of the videos.
        outputs: Valence, arousal, 8 expression probabilities and 12 action unit probabilities,
            shape (N, 22); NaN for a task that is not predicted.
    """

    video: Int32[np.ndarray, " N"]
    frame: Int32[np.ndarray, " N"]
    names: tuple[str, ...]
    outputs: Float32[np.ndarray, "N 22"]

    def save(self, path: str | Path) -> None:
        """Write the predictions to a Parquet file; it appears complete or not at all.

        The columns are ``video`` (dictionary-encoded name), ``frame`` and the ``OUTPUT_COLUMNS``.

        Args:
            path: File to write.
        """
        with prediction_writer(path, self.names) as write:
            write(self.video, self.frame, self.outputs)

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Read predictions from a Parquet file that ``save`` has written, with identical bits.

        Args:
            path: File to read.

        Raises:
            InputError: If the file is missing, damaged or not a file of predictions.
        """
        try:
            table = pq.read_table(path)
            names = tuple(json.loads(table.schema.metadata[NAMES_KEY]))
            outputs = np.stack([table[name].to_numpy() for name in OUTPUT_COLUMNS], axis=1)
            frame = table["frame"].to_numpy()
        except (OSError, KeyError, TypeError, pa.ArrowInvalid) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{path} holds no predictions of this program ({reason})") from error
        position = {name: index for index, name in enumerate(names)}
        chunks = table["video"].unify_dictionaries().combine_chunks()
        video = np.array([position[name] for name in chunks.dictionary.to_pylist()], np.int32)
        return cls(video[chunks.indices.to_numpy()], frame, names, outputs)


@contextmanager
def prediction_writer(path: str | Path, names: Sequence[str]) -> Iterator[Write]:
    """Open a Parquet file of predictions to append rows to, as a context manager.

    The file appears when the context ends, and not at all after an exception.

    Args:
        path: File to write.
        names: Names of the videos.

    Yields:
        A function that appends n rows, given the video of each row as an index into ``names``,
        (n,), its frame number, (n,), and its outputs, (n, 22).
    """
    unfinished = Path(f"{path}.unfinished")
    dictionary = pa.array(names, pa.string())
    columns = [pa.field(name, pa.float32()) for name in OUTPUT_COLUMNS]
    video = pa.field("video", pa.dictionary(pa.int32(), pa.string()))
    fields = [video, pa.field("frame", pa.int32()), *columns]
    schema = pa.schema(fields, {NAMES_KEY: json.dumps(list(names))})
    try:
        with pq.ParquetWriter(unfinished, schema) as writer:

            def write(video: np.ndarray, frame: np.ndarray, outputs: np.ndarray) -> None:
                named = pa.DictionaryArray.from_arrays(pa.array(video), dictionary)
                arrays = [named, pa.array(frame), *map(pa.array, outputs.T)]
                writer.write_table(pa.table(arrays, schema))

            yield write
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def decide(
    outputs: Float[np.ndarray, "N 22"],
) -> tuple[Float32[np.ndarray, "N 15"], Bool[np.ndarray, "N 15"]]:
    """Convert values and probabilities to predicted labels.

    Values are clipped to [-1, 1], the most probable expression is predicted, and an action unit is
    active if its probability is at least 0.5.

    Args:
        outputs: Valence, arousal, and probabilities of expressions and action units, (frames, 22);
            NaN where there is no prediction.

    Returns:
        Labels in the columns ``LABEL_COLUMNS``, (frames, 15), 0 where there is no prediction, and a
        mask that is True where there is a prediction, (frames, 15).
    """
    values = np.zeros((len(outputs), len(LABEL_COLUMNS)), np.float32)
    mask = np.zeros(values.shape, bool)
    for task in TASKS.values():
        task_outputs = outputs[:, task.outputs]
        missing = np.isnan(task_outputs)
        if task.kind == "regression":
            decided = task_outputs.clip(-1, 1)
        elif task.kind == "multiclass":
            missing = missing.any(axis=1, keepdims=True)
            decided = task_outputs.argmax(axis=1)[:, None]
        else:
            decided = decisions(task, task_outputs)
        values[:, task.labels] = np.where(missing, 0, decided)
        mask[:, task.labels] = ~missing
    return values, mask


def outputs_of(
    values: Float[np.ndarray, "N 15"], mask: Bool[np.ndarray, "N 15"]
) -> Float32[np.ndarray, "N 22"]:
    """Convert labels to model outputs that predict these labels; inverse of ``decide``.

    Args:
        values: Labels in the columns ``LABEL_COLUMNS``, (frames, 15).
        mask: True where a label is present, (frames, 15).

    Returns:
        Outputs in the columns ``OUTPUT_COLUMNS``, (frames, 22): valence and arousal, one-hot
        expressions, and action units of 0 or 1; NaN where a label is missing.
    """
    outputs = np.empty((len(values), len(OUTPUT_COLUMNS)), np.float32)
    for task in TASKS.values():
        decided, known = values[:, task.labels], mask[:, task.labels]
        if task.kind == "multiclass":
            decided = decided == np.arange(task.width)
        outputs[:, task.outputs] = np.where(known, decided, np.nan)
    return outputs
