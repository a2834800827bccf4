"""Ranking of the trials of a sweep, a separate one for each task."""

import bisect
from collections.abc import Mapping

from mtl.tasks import TASKS

BEST_TRIALS_PER_TASK = 25
"""Number of best trials of each task that keep their weights.

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
        """Return the signatures (config hashes) of the ranked trials of a task, best first."""
        return [signature for _, signature in self._ranked[task]]

    def ranked(self) -> set[str]:
        """Return the signatures (config hashes) of the trials among the best of some task."""
        return {signature for task in self._ranked for signature in self.best(task)}
