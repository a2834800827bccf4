"""Dividing the validation videos, by subject, into what is selected on and what is only reported.

Whatever is chosen on data must not be scored on the same data: epochs, pruning, sampling,
post-processing and fusion see ``select``; ``confirm`` is read when results are written.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mtl.errors import InputError

Part = Literal["select", "confirm"]


def select_videos(
    names: Sequence[str], subjects: Sequence[str], fraction_confirm: float, seed: int
) -> dict[str, Part]:
    """Divide validation videos into ``select`` and ``confirm``, whole subjects at a time.

    Args:
        names: The validation videos.
        subjects: The subject of each.
        fraction_confirm: Share of the videos that goes to ``confirm``, in [0, 1); 0 puts all
            of them into ``select``, and every score is then one on the selected videos.
        seed: Of the draw; the same seed divides the same videos alike in any order.

    Returns:
        The part of each video.

    Raises:
        InputError: If there are too few subjects for both parts.
    """
    if fraction_confirm == 0:
        return dict.fromkeys(names, "select")
    groups = sorted(set(subjects))
    if len(groups) < 2:
        raise InputError(
            f"search.confirm = {fraction_confirm} needs validation videos of at least 2 subjects, "
            f"but there are {len(groups)}: set search.confirm=0 to select and score on the same"
        )
    sizes = {group: list(subjects).count(group) for group in groups}
    target = fraction_confirm * len(names)
    confirm: set[str] = set()
    taken = 0
    for index in np.random.default_rng(seed).permutation(len(groups)):
        group = groups[index]
        closer = abs(taken + sizes[group] - target) <= abs(taken - target)
        if closer and len(confirm) < len(groups) - 1:
            confirm.add(group)
            taken += sizes[group]
    if not confirm:
        confirm.add(min(groups, key=lambda group: (sizes[group], group)))
    return {
        name: "confirm" if subject in confirm else "select"
        for name, subject in zip(names, subjects, strict=True)
    }
