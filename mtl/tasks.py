"""The four tasks of the challenge, and where each lives in a label row and in an output row.

A frame's labels are one row of ``LABEL_COLUMNS`` (15 numbers) beside a boolean mask of what is
known; a model's outputs are one row of ``OUTPUT_COLUMNS`` (22 numbers). -5 and -1, the challenge's
missing values, are known here alone: everywhere else a missing label is a False in the mask.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

EXPRESSIONS = (
    "Neutral",
    "Anger",
    "Disgust",
    "Fear",
    "Happiness",
    "Sadness",
    "Surprise",
    "Other",
)
ACTION_UNITS = tuple(f"AU{n}" for n in (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26))

Kind = Literal["regression", "multiclass", "multilabel"]


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: The field's term for it.
        kind: ``regression`` (a value in [-1, 1]), ``multiclass`` (one index) or ``multilabel``
            (independent 0/1 values).
        columns: Its label columns in ``labels.parquet``.
        labels: Where those columns stand in a label row.
        outputs: Where its outputs stand in an output row: the value, the class probabilities or
            the probability of each unit.
        missing: What the challenge's files write where there is no label.
        score: Its measure: concordance correlation or F1.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    labels: slice
    outputs: slice
    missing: int
    score: Literal["ccc", "f1"]

    @property
    def width(self) -> int:
        """Number of outputs."""
        return int(self.outputs.stop - self.outputs.start)


VALENCE = Task("valence", "regression", ("valence",), slice(0, 1), slice(0, 1), -5, "ccc")
AROUSAL = Task("arousal", "regression", ("arousal",), slice(1, 2), slice(1, 2), -5, "ccc")
EXPRESSION = Task("expression", "multiclass", ("expression",), slice(2, 3), slice(2, 10), -1, "f1")
UNITS = Task("action_units", "multilabel", ACTION_UNITS, slice(3, 15), slice(10, 22), -1, "f1")

TASKS = {task.name: task for task in (VALENCE, AROUSAL, EXPRESSION, UNITS)}
LABEL_COLUMNS = tuple(column for task in TASKS.values() for column in task.columns)
OUTPUT_COLUMNS = ("valence", "arousal", *EXPRESSIONS, *ACTION_UNITS)


MISSING = np.array([t.missing for t in TASKS.values() for _ in t.columns], np.float32)
