"""Which trials keep their weights: the best of each task."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from mtl.tasks import TASKS


def drop_weights(folder: Path, trials: Mapping[str, Sequence[FrozenTrial]], keep: int) -> None:
    """Delete the weights of ended trials that are not among the ``keep`` best of any task."""
    ended = {
        t.user_attrs["signature"]
        for found in trials.values()
        for t in found
        if t.state.is_finished()
    }
    scores = {name: _scores(folder / "trials" / name) for name in ended}
    kept: set[str] = set()
    for task in TASKS:
        ranked = sorted(
            (name for name in ended if scores[name].get(task) is not None),
            key=lambda name: -scores[name][task],
        )
        kept |= set(ranked[:keep])
    for name in ended - kept:
        shutil.rmtree(folder / "trials" / name / "weights", ignore_errors=True)


def _scores(trial: Path) -> dict[str, float]:
    file = trial / "scores.json"
    scores: dict[str, float] = json.loads(file.read_text())["select"] if file.exists() else {}
    return scores
