"""Mean of a result over a few random seeds, with its confidence interval."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of some values, and half the width of the mean's 95 % interval.

    The interval is by Student's t; half its width is NaN for a single value.

    Args:
        values: One value per seed.
    """
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(student.ppf(0.975, len(values) - 1) * spread)
