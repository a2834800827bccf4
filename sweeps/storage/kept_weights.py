"""Removal of trained weights that a sweep does not need; measurement of its trials' disk space."""

import json
from collections.abc import Mapping
from pathlib import Path

from mtl.errors import InputError
from mtl.whole_files import write_json
from sweeps.storage.ranking import BEST_TRIALS_PER_TASK, Ranking
from sweeps.storage.run_folder import KEPT_WEIGHTS
from sweeps.storage.trial_folder import TrialFolder, is_refit

FEWEST_KEPT = 5
"""Number of best trials of each task that keep their weights however short disk space is."""


def kept_per_task(run_folder: Path) -> int:
    """Return the number of best trials of each task that keep their weights and may be fused.

    The number is 25 until disk space is short, and never grows again: removed weights do not come
    back.

    Args:
        run_folder: The sweep's run folder.

    Raises:
        InputError: If the file that holds the number is damaged.
    """
    file = run_folder / KEPT_WEIGHTS
    try:
        number = json.loads(file.read_text())["trials_per_task"]
    except FileNotFoundError:
        return BEST_TRIALS_PER_TASK
    except (OSError, ValueError, KeyError, TypeError):
        number = None
    if type(number) is not int or not 0 < number <= BEST_TRIALS_PER_TASK:
        raise InputError(
            f'{file} is damaged: it must hold {{"trials_per_task": N}}, the number from 1 to '
            f"{BEST_TRIALS_PER_TASK} of best trials of each task that still have their weights"
        )
    return number


class KeptWeights:
    """Removes trained weights, except those of each task's best trials, and counts disk space.

    The folders of trials that ended in earlier starts of the sweep are read once, at the beginning.
    Later, a folder is read only when its trial ends or drops out of the best trials.

    Args:
        run_folder: The sweep's run folder.
        ended: Trials that ended in earlier starts of the sweep: by signature (hash of config and
            dataset), True if the trial failed.
        keep: Number of best trials of each task that keep their weights; None for the number that
            earlier starts have left.

    Attributes:
        keep: Number of best trials of each task that keep their weights.
    """

    def __init__(
        self, run_folder: Path, ended: Mapping[str, bool], keep: int | None = None
    ) -> None:
        self.keep = kept_per_task(run_folder) if keep is None else keep
        self._run_folder = run_folder
        self._ranking = Ranking(self.keep)
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
        self._remove_unranked(changed)

    def keep_fewer(self) -> bool:
        """Remove the weights of the trial that ranks last in each task, to save disk space.

        Weights of a trial that ranks higher in another task stay. The new number of kept trials is
        written to the run folder before weights are removed, so a sweep that is killed in between
        keeps the same trials, and fuses only trials that have their weights.

        Returns:
            False if nothing was removed, because each task keeps its 5 best trials only.

        Raises:
            OSError: If the number cannot be written, as on a full disk; no weights are removed.
        """
        keep = min(self.keep, self._ranking.longest()) - 1
        if keep < FEWEST_KEPT:
            return False
        write_json(self._run_folder / KEPT_WEIGHTS, {"trials_per_task": keep})
        self.keep = keep
        self._remove_unranked(self._ranking.lower_limit(keep))
        return True

    def removable_bytes(self) -> int:
        """Return the size of all weights that `keep_fewer` can remove, call after call."""
        removable = self._ranking.ranked() - self._ranking.ranked(FEWEST_KEPT)
        return sum(TrialFolder.in_run(self._run_folder, name).weights_bytes() for name in removable)

    @property
    def gb(self) -> float:
        """Disk space of all trials that have ended, in GB."""
        return sum(self._bytes.values()) / 1e9

    def _remove_unranked(self, signatures: set[str]) -> None:
        """Remove the weights of those of these trials that rank in no task; measure them all."""
        for name in signatures - self._ranking.ranked():
            TrialFolder.in_run(self._run_folder, name).remove_weights()
        for name in signatures:
            self._bytes[name] = TrialFolder.in_run(self._run_folder, name).size_bytes()
