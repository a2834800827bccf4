"""Covering sets: few combinations of several axes instead of all of them."""

from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import Any


def covering(*axes: Iterable[Any], pairs: bool = False) -> list[tuple[Any, ...]]:
    """Return combinations in which each value of each axis appears at least once.

    The combinations are always the same for the same axes. There are as many of them as the longest
    axis has values, and as many different pairs of values among them as a greedy choice finds.

    Args:
        axes: Values of each axis; all axes have at least one.
        pairs: True if each pair of values of two axes must appear too.
    """
    values = [tuple(axis) for axis in axes]
    candidates = list(product(*(range(len(axis)) for axis in values)))
    missing_values = {(axis, i) for axis, known in enumerate(values) for i in range(len(known))}
    missing_pairs = set().union(*(_pairs(candidate) for candidate in candidates))
    chosen: list[tuple[Any, ...]] = []
    while missing_values or (pairs and missing_pairs):
        best = max(
            candidates,
            key=lambda candidate: (
                len(missing_values.intersection(enumerate(candidate))),
                len(missing_pairs.intersection(_pairs(candidate))),
            ),
        )
        missing_values.difference_update(enumerate(best))
        missing_pairs.difference_update(_pairs(best))
        chosen.append(tuple(axis[i] for axis, i in zip(values, best, strict=True)))
    return chosen


def _pairs(candidate: Sequence[int]) -> set[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs of (axis, index of the value) in one combination."""
    return set(combinations(enumerate(candidate), 2))
