"""Candidates of the fusion: the best trials of each task, which are those that keep their weights.

Because only trials with kept weights are fused, every fused model can be exported. On 72 trials of
the demo this costs nothing: a choice among all trials has a higher score on ``select`` (validation
videos on which choices are made), but not on ``confirm`` (validation videos held back).
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
from sweeps.storage.kept_weights import kept_per_task
from sweeps.storage.ranking import Ranking
from sweeps.storage.trial_folder import TrialFolder, is_refit


@dataclass(frozen=True)
class Candidate:
    """Trial that has ended and has predictions, so that it may be fused.

    Attributes:
        signature: The trial's signature (hash of config and dataset).
        score: The trial's objective on ``select`` (validation videos on which choices are made).
        task_scores: Score on ``select`` of each task that the trial was trained for; None for a
            task without labels there.
        epochs: For each task, the epoch whose weights predict it.
        seconds: Seconds that one of the trial's models takes to predict a frame; None if not
            measured.
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
        known: Trials that an earlier call returned; their files are not read again.

    Returns:
        The trials by signature (hash of config and dataset), sorted by signature. Failed trials,
        and refits (fused trials trained again with one fold held out), are left out.

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
    """Best trials of each task, which may be fused, and their outputs, kept in memory.

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
        """All ended trials that have predictions and pass ``include``, sorted by signature."""
        return list(self._trials.values())

    @property
    def signatures(self) -> set[str]:
        """Signatures (config hashes) of the trials that may be fused, in any task."""
        return set().union(*self._outputs.values())

    def update(self, metric: str = "score") -> bool:
        """Read the trials that have ended since the last call, and choose each task's best trials.

        Args:
            metric: Name of the objective in a trial's ``scores.json``.

        Returns:
            True if the best trials of any task have changed since the last call.
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
        """Return the best trials of a task, which may be fused, and their outputs of this task.

        Returns:
            The signatures of the M trials, and their outputs (M, N, W) for N predicted frames and
            the W outputs of the task.
        """
        outputs = self._outputs[task.name]
        return list(outputs), np.stack(list(outputs.values())) if outputs else np.empty((0, 0, 0))

    def best_single(self) -> Candidate:
        """Return the trial with the best objective among the trials that predict the most tasks.

        The objective is a sum over tasks, so trials of different tasks cannot be compared by it.
        Among equally good trials the one with the smallest signature is returned.
        """
        return max(self.trials, key=lambda trial: (len(trial.task_scores), trial.score))

    def with_most_tasks(self, limit: int) -> list[Candidate]:
        """Return trials that may be fused and that all predict the same, largest set of tasks.

        Args:
            limit: Largest number of trials to return.

        Returns:
            The trials, the one with the best objective first.
        """
        candidates = [trial for trial in self.trials if trial.signature in self.signatures]
        ranked = sorted(candidates, key=lambda trial: (-len(trial.task_scores), -trial.score))
        tasks = ranked[0].task_scores.keys()
        return [trial for trial in ranked if trial.task_scores.keys() == tasks][:limit]

    def load(self, signature: str) -> Predictions:
        """Return the stored predictions of the trial with this signature (hash of its config)."""
        return TrialFolder.in_run(self._folder, signature).predictions()

    def _best_of_each_task(self) -> dict[str, list[str]]:
        """Return, by task, the signatures (config hashes) of the task's best trials.

        The same trials keep the files of their model weights. For a task without labels on
        ``select`` (validation videos on which choices are made), the list holds only one trial, the
        one with the best objective among the trials that keep their weights for other tasks.
        """
        ranking = Ranking(kept_per_task(self._folder))
        for trial in self.trials:
            ranking.add(trial.signature, trial.task_scores)
        best = {}
        for name in TASKS:
            trained = [trial for trial in self.trials if name in trial.task_scores]
            best[name] = ranking.best(name)
            if trained and not best[name]:
                keep = ranking.ranked()
                one = max(trained, key=lambda trial: (trial.signature in keep, trial.score))
                best[name] = [one.signature]
        return best
