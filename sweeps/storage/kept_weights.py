"""What trials leave on disk: its size, and whose weights are kept."""

import bisect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from mtl.tasks import TASKS
from sweeps.storage.trial_folder import TrialFolder, is_refit

BEST_TRIALS_PER_TASK = 25
"""Of how many of the best trials of each task; these are the ones that may be fused."""


class KeptWeights:
    """Keeps the weights of the best trials of each task and counts what all trials take.

    It looks at all trials once, when a sweep starts, and then at each that ends: the cost of a
    trial does not grow with their number.

    Args:
        trials: The folder ``trials/`` of a sweep.
        ended: The signatures of those that have ended, and whether they failed.
        keep: How many of the best trials of each task keep their weights.
    """

    def __init__(self, trials: Path, ended: Mapping[str, bool], keep: int) -> None:
        self._trials, self._keep = trials, keep
        self._best: dict[str, list[tuple[float, str]]] = {task: [] for task in TASKS}
        self._bytes: dict[str, int] = {}
        for signature, failed in ended.items():
            self.add(signature, failed)

    def add(self, signature: str, failed: bool = False) -> None:
        """A trial has ended: its checkpoint has done its work. Rank it, and drop the weights that
        are not among the best; those of one that failed never are.
        """
        TrialFolder(self._trials / signature).settle()
        file = self._trials / signature / "scores.json"
        ranks = file.exists() and not failed and not is_refit(signature)
        scores = json.loads(file.read_text())["select"] if ranks else {}
        leaving = {signature}
        for task, ranked in self._best.items():
            if scores.get(task) is not None and (-scores[task], signature) not in ranked:
                bisect.insort(ranked, (-scores[task], signature))
                leaving |= {name for _, name in ranked[self._keep :]}
                del ranked[self._keep :]
        kept = {name for ranked in self._best.values() for _, name in ranked}
        for name in leaving - kept:
            shutil.rmtree(self._trials / name / "weights", ignore_errors=True)
        for name in leaving:
            self._bytes[name] = folder_bytes(self._trials / name)

    @property
    def gb(self) -> float:
        """What the ended trials take, in GB."""
        return sum(self._bytes.values()) / 1e9


def folder_bytes(folder: Path) -> int:
    """Size of all files of a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
