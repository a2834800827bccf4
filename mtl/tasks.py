"""The four tasks of the challenge, and the columns of a label row and of an output row.

The labels of a frame are one row of ``LABEL_COLUMNS`` (15 numbers) and a boolean mask that is False
for a missing label. The outputs of a model for a frame are one row of ``OUTPUT_COLUMNS`` (22
numbers). Only this module defines the values -5 and -1 that mark a missing label in the challenge's
files; the other modules use the mask.
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

LABEL_COLUMNS = ("valence", "arousal", "expression", *ACTION_UNITS)
OUTPUT_COLUMNS = ("valence", "arousal", *EXPRESSIONS, *ACTION_UNITS)

MISSING_AFFECT = -5
"""Value of a missing valence or arousal label in the challenge's files."""
MISSING_CLASS = -1
"""Value of a missing expression or action unit label in the challenge's files."""

Kind = Literal["regression", "multiclass", "multilabel"]


@dataclass(frozen=True)
class Task:
    """One task of the challenge: its labels, outputs and metric.

    Attributes:
        name: ``valence``, ``arousal``, ``expression`` or ``action_units``.
        kind: ``regression`` (a value in [-1, 1]), ``multiclass`` (one class index) or
            ``multilabel`` (independent 0/1 values).
        columns: The task's columns in a label row and in ``labels.parquet``.
        output_columns: The task's columns in an output row: the value (regression), the
            probability of each class (multiclass) or of each action unit (multilabel).
        missing: Value of a missing label in the challenge's files.
        score: Metric of the task: ``ccc`` (concordance correlation coefficient) or ``f1``.
    """

    name: str
    kind: Kind
    columns: tuple[str, ...]
    output_columns: tuple[str, ...]
    missing: int
    score: Literal["ccc", "f1"]

    @property
    def labels(self) -> slice:
        """Slice of ``LABEL_COLUMNS`` (the columns of a label row) with this task's labels."""
        return _slice_of(self.columns, LABEL_COLUMNS)

    @property
    def outputs(self) -> slice:
        """Slice of ``OUTPUT_COLUMNS`` (the columns of an output row) with this task's outputs."""
        return _slice_of(self.output_columns, OUTPUT_COLUMNS)

    @property
    def width(self) -> int:
        """Number of outputs of this task: 8 (expression), 12 (action units), else 1."""
        return len(self.output_columns)


def _slice_of(columns: tuple[str, ...], row: tuple[str, ...]) -> slice:
    start = row.index(columns[0])
    return slice(start, start + len(columns))


VALENCE = Task(
    name="valence",
    kind="regression",
    columns=("valence",),
    output_columns=("valence",),
    missing=MISSING_AFFECT,
    score="ccc",
)
AROUSAL = Task(
    name="arousal",
    kind="regression",
    columns=("arousal",),
    output_columns=("arousal",),
    missing=MISSING_AFFECT,
    score="ccc",
)
EXPRESSION = Task(
    name="expression",
    kind="multiclass",
    columns=("expression",),
    output_columns=EXPRESSIONS,
    missing=MISSING_CLASS,
    score="f1",
)
UNITS = Task(
    name="action_units",
    kind="multilabel",
    columns=ACTION_UNITS,
    output_columns=ACTION_UNITS,
    missing=MISSING_CLASS,
    score="f1",
)

TASKS = {task.name: task for task in (VALENCE, AROUSAL, EXPRESSION, UNITS)}

MISSING = np.array([t.missing for t in TASKS.values() for _ in t.columns], np.float32)
"""Value that marks a missing label in the challenge's files, for each label column, (15,)."""
