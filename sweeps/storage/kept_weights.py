"""Removal of trained weights that a sweep does not need; measurement of its trials' disk space."""

from collections.abc import Mapping
from pathlib import Path

from sweeps.storage.ranking import BEST_TRIALS_PER_TASK, Ranking
from sweeps.storage.trial_folder import TrialFolder, is_refit


class KeptWeights:
    """Removes trained weights, except those of each task's best trials, and counts disk space.

    The folders of trials that ended in earlier starts of the sweep are read once, at the beginning.
    Later, a folder is read only when its trial ends or drops out of the best trials.

    Args:
        run_folder: The sweep's run folder.
        ended: Trials that ended in earlier starts of the sweep: by signature (hash of config and
            dataset), True if the trial failed.
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
        """Rank a trial that has ended, and remove files that are no longer needed.

        The removed files are the checkpoint of this trial, and the weights of each trial (this or
        an earlier one) that is not among the best of any task.

        Args:
            signature: The trial's signature (hash of config and dataset).
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
        """Disk space of all trials that have ended, in GB."""
        return sum(self._bytes.values()) / 1e9
