"""Confidence interval of a mean over a few seeds."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of values and the half width of its 95 % interval by Student's t.

    The half width is NaN for a single value.
    """
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(student.ppf(0.975, len(values) - 1) * spread)
