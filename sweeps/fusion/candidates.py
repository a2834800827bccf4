"""The trials that may be fused: for each task the best, whose weights are kept.

What is fused can so be exported. On 72 trials of the demo nothing is lost by it: the greedy choice
among all of them scores higher on ``select`` only.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mtl.errors import InputError, in_one_line
from mtl.predictions.table import Predictions
from mtl.tasks import TASKS, Task
from sweeps.storage.kept_weights import BEST_TRIALS_PER_TASK
from sweeps.storage.trial_folder import TrialFolder, is_refit


@dataclass(frozen=True)
class Candidate:
    """A trial that left predictions.

    Attributes:
        signature: Its folder under ``trials/``.
        score: Its objective on ``select``.
        tasks: Each trained task's own score there; None without a label.
        epochs: The epoch whose weights predict each task.
        seconds: What one of its models takes for a frame; None where nobody measured it.
    """

    signature: str
    score: float
    tasks: Mapping[str, float | None]
    epochs: Mapping[str, int]
    seconds: float | None = None


def read_members(
    folder: Path, metric: str = "score", known: Mapping[str, Candidate] | None = None
) -> dict[str, Candidate]:
    """All trials of a sweep's folder that have ended with predictions, by signature; those that are
    known already are not read again.
    """
    found = dict(known or {})
    for path in (folder / "trials").glob("*/predictions.parquet"):
        trial = TrialFolder(path.parent)
        name = path.parent.name
        new = name not in found and not is_refit(name) and not (path.parent / "error.txt").exists()
        if new and trial.ended:
            try:
                scores = json.loads((path.parent / "scores.json").read_text())
                found[name] = _member(name, scores, metric)
            except (OSError, ValueError, KeyError) as error:
                raise InputError(
                    f"{path.parent / 'scores.json'} is damaged ({in_one_line(error)}): remove "
                    f"{path.parent}, whose trial is then not fused"
                ) from None
    return dict(sorted(found.items()))


def _member(name: str, scores: Mapping[str, Any], metric: str) -> Candidate:
    tasks = {task: scores["select"].get(task) for task in scores["epochs"]}
    cost = scores.get("prediction")
    seconds = cost["seconds"] / (cost["models"] * cost["frames"]) if cost else None
    return Candidate(name, scores["select"][metric], tasks, scores["epochs"], seconds)


class Candidates:
    """The outputs of the best members of each task, kept from one fusion to the next."""

    def __init__(self, folder: Path, known: Callable[[str], bool] | None = None) -> None:
        self._counts = known or (lambda signature: True)
        self._folder = folder
        self._outputs: dict[str, dict[str, np.ndarray]] = {task: {} for task in TASKS}
        self._known: dict[str, Candidate] = {}

    @property
    def members(self) -> list[Candidate]:
        """All trials with predictions, by signature."""
        return list(self._known.values())

    def update(self, metric: str = "score") -> bool:
        """Take in what has ended meanwhile; whether any task has other candidates than before."""
        found = read_members(self._folder, metric, self._known)
        self._known = {name: member for name, member in found.items() if self._counts(name)}
        wanted = {name: self._best(name) for name in TASKS}
        changed = any(set(wanted[name]) != self._outputs[name].keys() for name in TASKS)
        for signature in sorted({s for best in wanted.values() for s in best}):
            new = [n for n in TASKS if signature in set(wanted[n]) - self._outputs[n].keys()]
            outputs = self.load(signature).outputs if new else np.empty((0, 22), np.float32)
            for name in new:
                self._outputs[name][signature] = outputs[:, TASKS[name].outputs].copy()
        for name, best in wanted.items():
            # In the members' order, which decides between equals.
            self._outputs[name] = {s: self._outputs[name][s] for s in sorted(best)}
        return changed

    def of(self, task: Task) -> tuple[list[str], Float[np.ndarray, "M N W"]]:
        """A task's candidates and their outputs of all predicted frames."""
        found = self._outputs[task.name]
        return list(found), np.stack(list(found.values())) if found else np.empty((0, 0, 0))

    def best_single(self) -> Candidate:
        """The best of those that predict the most tasks: a sum over more tasks is no better score.
        Of equals the first.
        """
        return max(self.members, key=lambda member: (len(member.tasks), member.score))

    def whole(self, most: int) -> list[Candidate]:
        """The ``most`` best candidates that predict the same tasks, as many as any, by their
        objective.
        """
        known = set().union(*self._outputs.values())
        able = [member for member in self.members if member.signature in known]
        ranked = sorted(able, key=lambda member: (-len(member.tasks), -member.score))
        tasks = ranked[0].tasks.keys()
        return [member for member in ranked if member.tasks.keys() == tasks][:most]

    def load(self, signature: str) -> Predictions:
        """A trial's stored predictions."""
        return Predictions.load(self._folder / "trials" / signature / "predictions.parquet")

    def _best(self, task: str) -> list[str]:
        """As the kept weights are ranked; where nobody has a score, the best trial."""
        able = [member for member in self.members if task in member.tasks]
        scores = {m.signature: score for m in able if (score := m.tasks[task]) is not None}
        if not scores:
            return [max(able, key=lambda member: member.score).signature] if able else []
        return sorted(scores, key=lambda s: (-scores[s], s))[:BEST_TRIALS_PER_TASK]
