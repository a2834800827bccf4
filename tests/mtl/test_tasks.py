"""Tests of the tasks' positions in label and output rows, and of their missing values."""

import numpy as np

from mtl.tasks import AROUSAL, EXPRESSION, LABEL_COLUMNS, MISSING, OUTPUT_COLUMNS, UNITS, VALENCE


def test_slices_and_widths() -> None:
    assert (VALENCE.labels, VALENCE.outputs, VALENCE.width) == (slice(0, 1), slice(0, 1), 1)
    assert (AROUSAL.labels, AROUSAL.outputs, AROUSAL.width) == (slice(1, 2), slice(1, 2), 1)
    assert (EXPRESSION.labels, EXPRESSION.outputs, EXPRESSION.width) == (
        slice(2, 3),
        slice(2, 10),
        8,
    )
    assert (UNITS.labels, UNITS.outputs, UNITS.width) == (slice(3, 15), slice(10, 22), 12)
    assert (len(LABEL_COLUMNS), len(OUTPUT_COLUMNS)) == (15, 22)


def test_missing_values() -> None:
    np.testing.assert_array_equal(MISSING, [-5, -5] + [-1] * 13)
    assert MISSING.dtype == np.float32
