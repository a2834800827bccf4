"""First points from an earlier sweep on other data (``--from RUN``): its best configs.

Scores on other data cannot be compared, but a config that was good there is worth an early trial.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from mtl.dataset import Dataset
from mtl.errors import InputError
from mtl.sequences.join import trained_tasks
from mtl.tasks import TASKS
from sweeps.planning.compose import compose
from sweeps.planning.plan import check_first
from sweeps.planning.space import Space
from sweeps.search.warm_start import EarlierSweep
from sweeps.search_file.overrides import values_by_path

BEST = 5
"""Largest number of trials of an Optuna study of the earlier sweep that give a point."""


class BestPoints(NamedTuple):
    """Points from the best configs of an earlier sweep.

    Attributes:
        points: The points, the best ones first.
        notes: Sentences for the user on configs that give no point.
    """

    points: list[dict[str, Any]]
    notes: list[str]


def best_points(
    earlier: EarlierSweep,
    space: Space,
    dataset: Dataset,
    taken: Sequence[Mapping[str, Any]] = (),
) -> BestPoints:
    """Return the earlier sweep's best configs as points of this sweep's search space.

    The `BEST` COMPLETE trials with the highest values of each study are taken, the best of all
    studies first, then the second ones, and so on. A point has those config keys that this space
    varies and whose value is in this space; equal points are one. All points of earlier sweeps
    together are at most half of the trials of each study of this sweep, rounded up, so that the
    sampler proposes the others. A config of which this version or this dataset has no model is left
    out.

    Args:
        earlier: Finished trials of the earlier sweep.
        space: This sweep's search space.
        dataset: This sweep's dataset.
        taken: Points that this sweep took from other earlier sweeps.
    """
    ranked: list[tuple[int, str, FrozenTrial]] = []
    for study in earlier.compared:
        complete = [
            trial
            for name, trial in earlier.trials
            if name == study and trial.state == TrialState.COMPLETE
        ]
        best = sorted(complete, key=lambda trial: trial.value or 0.0, reverse=True)[:BEST]
        ranked += [(rank, study, trial) for rank, trial in enumerate(best)]
    points: list[dict[str, Any]] = []
    notes: list[str] = []
    tasks = trained_tasks(TASKS, dataset.listing())
    counts = Counter(study for point in taken for study in _studies(space, point))
    for _, name, trial in sorted(ranked, key=lambda entry: entry[0]):
        try:
            point = _point(space, trial.user_attrs["overrides"])
            studies = _studies(space, point)
            full = any(counts[study] >= _most(space) for study in studies)
            if not point or point in points or full:
                continue
            check_first(space, point, dataset, tasks)
        except InputError as error:
            notes.append(f"{earlier.folder}: trial {trial.number} of {name} is left out: {error}")
            continue
        points.append(point)
        counts.update(studies)
    if not points:
        reason = "none gives another point of this space" if ranked else "none is complete yet"
        notes.append(
            f"{earlier.folder.resolve()} was trained on other data: 0 of its best configs come "
            f"first: {reason}; a later start with --from looks again"
        )
    return BestPoints(points, notes)


def _most(space: Space) -> int:
    """Return the largest number of points that a study takes: half of its trials, rounded up."""
    trials = space.file.search.trials // len(space.comparisons())
    return (trials + 1) // 2


def _studies(space: Space, point: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the studies whose compared values a point does not contradict."""
    return [
        number
        for number, combination in enumerate(space.comparisons())
        if all(point.get(path, value) == value for path, value in combination.items())
    ]


def _point(space: Space, overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of a config that are in a search space: config key -> value."""
    config, words = compose(overrides).plain(), values_by_path(overrides)
    placed: dict[str, Any] = {}
    point: dict[str, Any] = {}
    for leaf in space.leaves():
        if leaf.choices.items() <= placed.items():
            value = _value(config, leaf.path, words)
            try:
                placed[leaf.name] = point[leaf.path] = leaf.node.member(value)
            except ValueError:
                continue
    return point


def _value(config: Mapping[str, Any], path: str, words: Mapping[str, str]) -> Any:
    """Return a config key's value: for a Hydra group the name of its option; None if unknown."""
    node: Any = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        return node
    return node.get("name", words.get(path))
