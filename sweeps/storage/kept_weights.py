"""Weights that a sweep keeps, and the disk space that its trials take."""

from collections.abc import Mapping
from pathlib import Path

from sweeps.storage.ranking import BEST_TRIALS_PER_TASK, Ranking
from sweeps.storage.trial_folder import TrialFolder, is_refit


class KeptWeights:
    """Keeps the weights of the best trials of each task and measures the size of all trials.

    All trial folders are read once, when a sweep starts, and then each one when its trial ends, so
    the cost of a trial's end does not grow with the number of trials.

    Args:
        run_folder: The sweep's run folder.
        ended: Ended trials by signature; the value is True if the trial failed.
        keep: Number of best trials of each task that keep their weights.
    """

    def __init__(
        self, run_folder: Path, ended: Mapping[str, bool], keep: int = BEST_TRIALS_PER_TASK
    ) -> None:
        self._run_folder = run_folder
        self._ranking = Ranking(keep)
        self._bytes: dict[str, int] = {}
        for signature, failed in ended.items():
            self.add(signature, failed)

    def add(self, signature: str, failed: bool = False) -> None:
        """Rank an ended trial and remove its checkpoint and all weights no longer among the best.

        Args:
            signature: The trial's signature.
            failed: True if the trial failed; it then keeps no weights.
        """
        trial = TrialFolder.in_run(self._run_folder, signature)
        trial.remove_checkpoint()
        changed = {signature}
        if trial.scores_file.exists() and not failed and not is_refit(signature):
            changed |= self._ranking.add(signature, trial.scores()["select"])
        for name in changed - self._ranking.ranked():
            TrialFolder.in_run(self._run_folder, name).remove_weights()
        for name in changed:
            self._bytes[name] = TrialFolder.in_run(self._run_folder, name).size_bytes()

    @property
    def gb(self) -> float:
        """Size of the ended trials' files, in GB."""
        return sum(self._bytes.values()) / 1e9
