"""Ranking of the trials of a sweep, a separate one for each task."""

import bisect
from collections.abc import Mapping

from mtl.tasks import TASKS

BEST_TRIALS_PER_TASK = 25
"""Number of best trials of each task that keep their weights, unless disk space is short.

Only these trials may be fused, so that every fused model can be exported.
"""


class Ranking:
    """Best trials of each task, ordered by score.

    Trials with equal scores are ordered by signature (hash of config and dataset).

    Args:
        limit: Largest number of trials that are kept in the ranking of a task.
    """

    def __init__(self, limit: int = BEST_TRIALS_PER_TASK) -> None:
        self._limit = limit
        self._ranked: dict[str, list[tuple[float, str]]] = {task: [] for task in TASKS}

    def add(self, signature: str, scores: Mapping[str, float | None]) -> set[str]:
        """Rank a trial in each task in which it has a score.

        Args:
            signature: The trial's signature (hash of config and dataset).
            scores: The trial's score in each task on ``select`` (validation videos on which choices
                are made). Tasks with score None and keys that are no tasks are skipped.

        Returns:
            Signatures of the trials that are no longer in the ranking of some task, the new trial
            possibly among them; they may still be in the ranking of another task.
        """
        for task, ranked in self._ranked.items():
            score = scores.get(task)
            if score is not None and (-score, signature) not in ranked:
                bisect.insort(ranked, (-score, signature))
        return self.lower_limit(self._limit)

    def lower_limit(self, limit: int) -> set[str]:
        """Keep fewer trials in the ranking of each task, the best ones.

        Args:
            limit: New largest number of trials in the ranking of a task.

        Returns:
            Signatures of the trials that are no longer in the ranking of some task; they may still
            be in the ranking of another task.
        """
        self._limit = limit
        dropped: set[str] = set()
        for ranked in self._ranked.values():
            dropped |= {name for _, name in ranked[limit:]}
            del ranked[limit:]
        return dropped

    def longest(self) -> int:
        """Return the number of trials in the ranking of the task that ranks the most trials."""
        return max(map(len, self._ranked.values()))

    def best(self, task: str) -> list[str]:
        """Return the signatures (config hashes) of the ranked trials of a task, best first."""
        return [signature for _, signature in self._ranked[task]]

    def ranked(self, limit: int | None = None) -> set[str]:
        """Return the signatures (config hashes) of the trials among the best of some task.

        Args:
            limit: Number of best trials of each task; None for all that are ranked.
        """
        return {signature for task in self._ranked for signature in self.best(task)[:limit]}
