"""First points from an earlier sweep on other data (``--from RUN``): its best configs.

Scores on other data cannot be compared, but a config that was good there is worth an early trial.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from sweeps.planning.compose import compose
from sweeps.planning.space import Space
from sweeps.search.warm_start import EarlierSweep
from sweeps.search_file.overrides import values_by_path

BEST = 5
"""Largest number of trials of an Optuna study of the earlier sweep that give a point."""


def best_points(
    earlier: EarlierSweep, space: Space, taken: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return the earlier sweep's best configs as points of this sweep's search space.

    The `BEST` COMPLETE trials with the highest values of each study are taken, the best of all
    studies first, then the second ones, and so on. A point has those config keys that this space
    varies and whose value is in this space; equal points are one. All points of earlier sweeps
    together are at most half of the trials of each study of this sweep, rounded up, so that the
    sampler proposes the others.

    Args:
        earlier: Finished trials of the earlier sweep.
        space: This sweep's search space.
        taken: Points that this sweep took from other earlier sweeps.
    """
    ranked: list[tuple[int, list[str]]] = []
    for study in earlier.compared:
        complete = [
            trial
            for name, trial in earlier.trials
            if name == study and trial.state == TrialState.COMPLETE
        ]
        best = sorted(complete, key=lambda trial: trial.value or 0.0, reverse=True)[:BEST]
        ranked += [(rank, trial.user_attrs["overrides"]) for rank, trial in enumerate(best)]
    points: list[dict[str, Any]] = []
    counts = Counter(study for point in taken for study in _studies(space, point))
    for _, overrides in sorted(ranked, key=lambda entry: entry[0]):
        point = _point(space, overrides)
        studies = _studies(space, point)
        if point and point not in points and all(counts[study] < _most(space) for study in studies):
            points.append(point)
            counts.update(studies)
    return points


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
