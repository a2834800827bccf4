"""Ranking of a sweep's trials in each task."""

import bisect
from collections.abc import Mapping

from mtl.tasks import TASKS

BEST_TRIALS_PER_TASK = 25
"""Number of best trials of each task that keep their weights and that are the task's candidates for
the fusion: the two limits are one, so every fused trial can be exported.
"""


class Ranking:
    """Ranking of trials in each task by their scores; equal scores are ordered by signature.

    Args:
        limit: Largest number of trials that are ranked in a task.
    """

    def __init__(self, limit: int = BEST_TRIALS_PER_TASK) -> None:
        self._limit = limit
        self._ranked: dict[str, list[tuple[float, str]]] = {task: [] for task in TASKS}

    def add(self, signature: str, scores: Mapping[str, float | None]) -> set[str]:
        """Rank a trial in each task in which it has a score.

        Args:
            signature: The trial's signature.
            scores: The trial's score on ``select`` in each task; other keys and None are skipped.

        Returns:
            Signatures that dropped out of a task's ranking; they may still be ranked in another.
        """
        dropped: set[str] = set()
        for task, ranked in self._ranked.items():
            score = scores.get(task)
            if score is None or (-score, signature) in ranked:
                continue
            bisect.insort(ranked, (-score, signature))
            dropped |= {name for _, name in ranked[self._limit :]}
            del ranked[self._limit :]
        return dropped

    def best(self, task: str) -> list[str]:
        """Return the signatures of a task's best trials, the best one first."""
        return [signature for _, signature in self._ranked[task]]

    def ranked(self) -> set[str]:
        """Return the signatures of the trials that are among the best of at least one task."""
        return {signature for task in self._ranked for signature in self.best(task)}
