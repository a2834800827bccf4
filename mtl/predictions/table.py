"""Per-frame predictions: what a trial stores, and the labels that a submission decides from them.

Shapes: ``N`` frames; 22 output columns and 15 label columns as ``mtl.tasks`` lays them out.
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
NAMES_KEY = b"videos"  # all names in order: a dictionary column keeps only those that have rows


@dataclass(frozen=True)
class Predictions:
    """Outputs of frames.

    Attributes:
        video: Index into ``names``, shape (N,).
        frame: Frame number, shape (N,).
        names: The videos' names.
        outputs: Values, class probabilities and unit probabilities, shape (N, 22); the columns of
            a task that is not predicted are NaN.
    """

    video: Int32[np.ndarray, " N"]
    frame: Int32[np.ndarray, " N"]
    names: tuple[str, ...]
    outputs: Float32[np.ndarray, "N 22"]

    def save(self, path: str | Path) -> None:
        """Write Parquet: ``video`` (dictionary), ``frame``, then the 22 outputs by name.

        The file appears whole or not at all.
        """
        with prediction_writer(path, self.names) as write:
            write(self.video, self.frame, self.outputs)

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Read what ``save`` wrote, bit for bit.

        Raises:
            InputError: If the file is missing, damaged or of another kind.
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
        here = np.array([position[name] for name in chunks.dictionary.to_pylist()], np.int32)
        return cls(here[chunks.indices.to_numpy()], frame, names, outputs)


@contextmanager
def prediction_writer(path: str | Path, names: Sequence[str]) -> Iterator[Write]:
    """A file of predictions that is written in parts, each called with what ``Predictions`` holds.

    It appears at the end, whole; after an exception there is none.
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
    """The labels that a submission states, and which of them there are.

    Values are cut to [-1, 1], the expression is the most probable, a unit is on from 0.5. Outputs
    that are NaN give no label (0 and False).
    """
    values = np.zeros((len(outputs), len(LABEL_COLUMNS)), np.float32)
    mask = np.zeros(values.shape, bool)
    for task in TASKS.values():
        of_task = outputs[:, task.outputs]
        missing = np.isnan(of_task)
        if task.kind == "regression":
            decided = of_task.clip(-1, 1)
        elif task.kind == "multiclass":
            missing = missing.any(axis=1, keepdims=True)
            decided = of_task.argmax(axis=1)[:, None]
        else:
            decided = decisions(task, of_task)
        values[:, task.labels] = np.where(missing, 0, decided)
        mask[:, task.labels] = ~missing
    return values, mask


def outputs_of(
    values: Float[np.ndarray, "N 15"], mask: Bool[np.ndarray, "N 15"]
) -> Float32[np.ndarray, "N 22"]:
    """Outputs that ``decide`` turns into these labels: one-hot classes, NaN for what is missing."""
    outputs = np.empty((len(values), len(OUTPUT_COLUMNS)), np.float32)
    for task in TASKS.values():
        decided, known = values[:, task.labels], mask[:, task.labels]
        if task.kind == "multiclass":
            decided = decided == np.arange(task.width)
        outputs[:, task.outputs] = np.where(known, decided, np.nan)
    return outputs
