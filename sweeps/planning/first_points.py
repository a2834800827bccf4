"""First points: known-good points of the search space (``search.first``), one list a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from mtl.config import TrialConfig
from mtl.errors import InputError, shortened
from mtl.strict import did_you_mean
from sweeps.planning.compose import compose
from sweeps.planning.space import Leaf, Space, journal_name
from sweeps.search_file import SearchFile
from sweeps.search_file.overrides import format_override
from sweeps.search_file.ranges import NotWhole, display_value, equal, optuna_value
from sweeps.search_file.refusal import short_json

COMPLETIONS = 5
"""Number of random completions of each first point that are composed as a check."""


@dataclass(frozen=True)
class FirstPoints:
    """Points that the studies of a sweep train first.

    Attributes:
        parameters: For each study (combination of compared values) its points, each as Optuna's
            parameters by name.
        left_out: Reason for each point that cannot be trained, because a config key that it names
            is fixed to another value.
    """

    parameters: tuple[tuple[dict[str, Any], ...], ...]
    left_out: tuple[str, ...]


def first_points(space: Space) -> FirstPoints:
    """Check the first points of a search file and return them for each of the sweep's studies.

    A point goes to every study whose compared values it does not contradict. Equal points of a
    study are one.

    Args:
        space: The search file's space.

    Raises:
        InputError: If a point names a config key that the space does not have, or a value outside
            its range, or, if it is left out, a key or value that no config can have.
    """
    fixed, combinations = space.file.fixed, space.comparisons()
    studies: list[list[dict[str, Any]]] = [[] for _ in combinations]
    left_out = []
    for index, point in enumerate(space.file.search.first):
        run = space.file.first_run(index)
        where = f"--from {run}" if run else f"{space.file.source}: search.first, point {index + 1}"
        other = [path for path in point if path in fixed and not equal(fixed[path], point[path])]
        if other:
            _check_left_out(point, fixed, other, where)
            path = other[0]
            named, here = (shortened(display_value(of[path])) for of in (point, fixed))
            left_out.append(f"{path} = {named}, but it is fixed to {here}")
            continue
        free = {path: value for path, value in point.items() if path not in fixed}
        fix = (
            "start anew (--fresh)"
            if run
            else "change it, or train no first points (search.first=[])"
        )
        placed = _placed(space, free, where, fix)
        for study, combination in zip(studies, combinations, strict=True):
            if any(placed.get(path, value) != value for path, value in combination.items()):
                continue
            parameters = {
                journal_name(name): optuna_value(value)
                for name, value in placed.items()
                if name not in combination
            }
            if parameters and parameters not in study:
                study.append(parameters)
    return FirstPoints(tuple(map(tuple, studies)), tuple(left_out))


def first_configs(space: Space, first: FirstPoints) -> list[TrialConfig]:
    """Return random completions of the first points, composed to configs.

    Args:
        space: The search file's space.
        first: The first points of each study.

    Raises:
        InputError: If a completed point does not compose to a config.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(space.file.search.seed))
    completed: dict[tuple[str, ...], None] = {}
    for points, combination in zip(first.parameters, space.comparisons(), strict=True):
        for point in [point for point in points for _ in range(COMPLETIONS)]:
            study.enqueue_trial(point)
            completed[tuple(space.sample(study.ask(), combination))] = None
    return [compose(overrides) for overrides in completed]


def first_places(file: SearchFile) -> str:
    """Return the places of the first points for messages: the search file, earlier sweeps."""
    runs = [file.first_run(index) for index in range(len(file.search.first))]
    places = [f"--from {run}" if run else f"{file.source}: search.first" for run in runs]
    return " and ".join(dict.fromkeys(places))


def _check_left_out(
    point: Mapping[str, Any], fixed: Mapping[str, Any], other: Sequence[str], where: str
) -> None:
    """Raise InputError if no config can have the values of a point that is left out.

    The space no longer has the ranges of keys that are fixed, so the values are composed with
    those fixed values that do not depend on the keys with other values.

    Args:
        point: The point.
        fixed: Fixed value of each config key.
        other: Keys of the point that are fixed to other values.
        where: Place of the point in the search file, for the message.
    """
    below = tuple(f"{path}." for path in other)
    kept = {path: value for path, value in fixed.items() if not path.startswith(below)}
    try:
        compose([format_override(path, value) for path, value in {**kept, **point}.items()])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _placed(space: Space, point: Mapping[str, Any], where: str, fix: str) -> dict[str, Any]:
    """Return the parameters of a point: name of the parameter, with its choices -> value."""
    placed: dict[str, Any] = {}
    leaves = space.leaves()
    for leaf in leaves:
        if leaf.path in point and leaf.choices.items() <= placed.items():
            placed[leaf.name] = _member(leaf, point[leaf.path], where, fix)
    missing = sorted(point.keys() - {name.rpartition("/")[2] for name in placed})
    if missing:
        raise InputError(f"{where}: {missing[0]} {_not_there(missing[0], leaves, point)}")
    return placed


def _member(leaf: Leaf, value: Any, where: str, fix: str) -> Any:
    try:
        return leaf.node.member(value)
    except ValueError as error:
        allowed = leaf.node.describe()
        allowed = allowed if len(allowed) <= 200 else f"{allowed[:197]}..."
        reason = f"{error}; " if isinstance(error, NotWhole) else ""
        raise InputError(
            f"{where}: {leaf.path} = {short_json(value)} is not in {leaf.where} ({allowed}): "
            f"{reason}{fix}"
        ) from None


def _not_there(path: str, leaves: Sequence[Leaf], point: Mapping[str, Any]) -> str:
    choices = [leaf.choices for leaf in leaves if leaf.path == path]
    if not choices:
        return f"is not in space{did_you_mean(path, dict.fromkeys(x.path for x in leaves))}"
    options = [
        ", ".join(f"{name.rpartition('/')[2]}: {option}" for name, option in needed.items())
        for needed in choices
    ]
    keys = {name.rpartition("/")[2] for needed in choices for name in needed}
    named = ", ".join(f"{key}: {display_value(point[key])}" for key in keys if key in point)
    fix = f"but the point has {named}" if named else "name the option in the point too"
    return f"varies only under {' or '.join(options)}: {fix}"
