"""Candidates of the fusion: for each task the best trials, which are those that keep their weights.

A fused model can therefore always be exported. On 72 trials of the demo this restriction costs
nothing: the greedy choice among all trials scores higher on ``select`` only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mtl.errors import InputError, in_one_line
from mtl.predictions.table import Predictions
from mtl.tasks import OUTPUT_COLUMNS, TASKS, Task
from sweeps.storage.ranking import BEST_TRIALS_PER_TASK, Ranking
from sweeps.storage.trial_folder import TrialFolder, is_refit


@dataclass(frozen=True)
class Candidate:
    """Scores of an ended trial with predictions.

    Attributes:
        signature: The trial's signature.
        score: The trial's objective on ``select``.
        task_scores: The score on ``select`` of each trained task; None for a task without a label.
        epochs: The epoch whose weights predict each task.
        seconds: Seconds in which one of the trial's models predicts a frame; None if not measured.
    """

    signature: str
    score: float
    task_scores: Mapping[str, float | None]
    epochs: Mapping[str, int]
    seconds: float | None = None


def read_candidates(
    folder: Path, metric: str = "score", known: Mapping[str, Candidate] | None = None
) -> dict[str, Candidate]:
    """Read the scores of all ended trials of a sweep that have predictions.

    Args:
        folder: The sweep's run folder.
        metric: Name of the objective in a trial's ``scores.json``.
        known: Trials that were read earlier and are not read again, by signature.

    Returns:
        All ended trials with predictions, the known ones included, in the order of signatures.

    Raises:
        InputError: If a trial's ``scores.json`` is damaged.
    """
    candidates = dict(known or {})
    for trial in TrialFolder.all_in_run(folder):
        signature = trial.signature
        new = signature not in candidates and not is_refit(signature) and not trial.has_failed
        if new and trial.has_ended:
            try:
                candidates[signature] = _candidate(signature, trial.scores(), metric)
            except (OSError, ValueError, KeyError) as error:
                raise InputError(
                    f"{trial.scores_file} is damaged ({in_one_line(error)}): remove {trial.path}, "
                    "whose trial is then not fused"
                ) from None
    return dict(sorted(candidates.items()))


def _candidate(signature: str, scores: Mapping[str, Any], metric: str) -> Candidate:
    tasks = {task: scores["select"].get(task) for task in scores["epochs"]}
    cost = scores.get("prediction")
    seconds = cost["seconds"] / (cost["models"] * cost["frames"]) if cost else None
    return Candidate(signature, scores["select"][metric], tasks, scores["epochs"], seconds)


class Candidates:
    """Outputs of the best trials of each task, kept in memory from one fusion to the next.

    Args:
        folder: The sweep's run folder.
        include: Function that returns True for the signature of a trial that may be fused; None
            includes all trials.
    """

    def __init__(self, folder: Path, include: Callable[[str], bool] | None = None) -> None:
        self._include = include or (lambda signature: True)
        self._folder = folder
        self._outputs: dict[str, dict[str, np.ndarray]] = {task: {} for task in TASKS}
        self._trials: dict[str, Candidate] = {}

    @property
    def trials(self) -> list[Candidate]:
        """All ended trials with predictions that may be fused, in the order of signatures."""
        return list(self._trials.values())

    def update(self, metric: str = "score") -> bool:
        """Read the trials that have ended since the last update.

        Args:
            metric: Name of the objective in a trial's ``scores.json``.

        Returns:
            True if the candidates of a task have changed.
        """
        trials = read_candidates(self._folder, metric, self._trials)
        self._trials = {name: trial for name, trial in trials.items() if self._include(name)}
        best = self._best_of_each_task()
        changed = any(set(best[name]) != self._outputs[name].keys() for name in TASKS)
        for signature in sorted({s for signatures in best.values() for s in signatures}):
            new = [n for n in TASKS if signature in set(best[n]) - self._outputs[n].keys()]
            no_outputs = np.empty((0, len(OUTPUT_COLUMNS)), np.float32)
            outputs = self.load(signature).outputs if new else no_outputs
            for name in new:
                self._outputs[name][signature] = outputs[:, TASKS[name].outputs].copy()
        for name, signatures in best.items():
            # The order of signatures decides between members with equal scores.
            self._outputs[name] = {s: self._outputs[name][s] for s in sorted(signatures)}
        return changed

    def task_outputs(self, task: Task) -> tuple[list[str], Float[np.ndarray, "M N W"]]:
        """Return the candidates of a task and their outputs.

        Returns:
            The candidates' signatures, and their outputs of the task for all predicted frames.
        """
        outputs = self._outputs[task.name]
        return list(outputs), np.stack(list(outputs.values())) if outputs else np.empty((0, 0, 0))

    def best_single(self) -> Candidate:
        """Return the trial with the best objective among those that predict the most tasks.

        The objective is a sum over tasks, so only trials of equally many tasks are compared. If the
        best objective is that of several trials, the first of them is returned.
        """
        return max(self.trials, key=lambda trial: (len(trial.task_scores), trial.score))

    def with_most_tasks(self, limit: int) -> list[Candidate]:
        """Return the best candidates that predict one and the same largest set of tasks.

        Args:
            limit: Largest number of candidates to return.

        Returns:
            The candidates, the one with the best objective first.
        """
        signatures = set().union(*self._outputs.values())
        candidates = [trial for trial in self.trials if trial.signature in signatures]
        ranked = sorted(candidates, key=lambda trial: (-len(trial.task_scores), -trial.score))
        tasks = ranked[0].task_scores.keys()
        return [trial for trial in ranked if trial.task_scores.keys() == tasks][:limit]

    def load(self, signature: str) -> Predictions:
        """Return the stored predictions of a trial."""
        return TrialFolder.in_run(self._folder, signature).predictions()

    def _best_of_each_task(self) -> dict[str, list[str]]:
        """Return each task's best trials, by the ranking that decides which weights are kept.

        For a task without a label on ``select`` the trial with the best objective is returned.
        """
        ranking = Ranking(BEST_TRIALS_PER_TASK)
        for trial in self.trials:
            ranking.add(trial.signature, trial.task_scores)
        best = {}
        for name in TASKS:
            trained = [trial for trial in self.trials if name in trial.task_scores]
            best[name] = ranking.best(name)
            if trained and not best[name]:
                best[name] = [max(trained, key=lambda trial: trial.score).signature]
        return best
