"""The search file's space as conditional Optuna parameters; a sampled point is Hydra overrides."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import optuna

from mtl.config_keys import first_path
from mtl.errors import InputError
from sweeps.planning.compose import compose as compose_config
from sweeps.search_file import SearchFile
from sweeps.search_file.overrides import override
from sweeps.search_file.ranges import Choice, shown

Pick = Callable[[str, Any], Any]


class Setting(NamedTuple):
    """One path set to one value, and where the search file says so."""

    where: str
    path: str
    value: Any


class Leaf(NamedTuple):
    """One varied parameter: where it stands, its name in Optuna, and the choices above it."""

    where: str
    name: str
    node: Any
    choices: Mapping[str, str]


class Space:
    """The space of one search file.

    A parameter's name in Optuna carries the choices above it, ``encoder=gru/encoder.layers``: the
    same path may so have other bounds under another option.

    Args:
        file: The loaded search file.
        compose: Turns overrides into a trial config, or raises ``InputError``.
    """

    def __init__(
        self, file: SearchFile, compose: Callable[[Sequence[str]], object] = compose_config
    ) -> None:
        self.file = file
        self._compose = compose

    def sample(
        self, trial: optuna.trial.BaseTrial, chosen: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Ask the trial for a point; return Hydra overrides, the fixed ones first.

        Args:
            trial: The Optuna trial.
            chosen: Values of compared parameters (``comparisons``); the trial is not asked.
        """
        settings = self._settings(
            lambda name, node: node.suggest(trial, journal_name(name)), chosen or {}
        )
        return [override(setting.path, setting.value) for setting in settings]

    def comparisons(self) -> list[dict[str, Any]]:
        """Every combination of the compared values, in the file's order; ``[{}]`` without any."""
        by = self.file.compare.by
        values = [self.file.space[path].listed() for path in by]
        return [
            dict(zip(by, combination, strict=True)) for combination in itertools.product(*values)
        ]

    @staticmethod
    def label(combination: Mapping[str, Any]) -> str:
        """A combination's suffix in its study's name, as ``gru`` or ``gru,linear``."""
        return ",".join(shown(value) for value in combination.values())

    def describe(self) -> list[str]:
        """One line for each varied parameter: its name and what it may be."""
        leaves = [x for x in self._leaves(self.file.space) if len(x.node.listed()) > 1]
        width = max((len(leaf.name) for leaf in leaves), default=0)
        return [f"{leaf.name:{width}}  {leaf.node.describe()}" for leaf in leaves]

    def check(self) -> None:
        """Compose every listed value and both ends of every range, each in one whole point.

        Other parameters stand at their first value, so a point that fails is one that the sweep
        could have drawn.

        Raises:
            InputError: The first point that does not compose: the path in the search file and
                what is wrong with it.
        """
        first = self._point({})
        self._try(first, None)
        done = {_key(first)}
        for leaf in self._leaves(self.file.space):
            for value in leaf.node.listed():
                point = self._point({**leaf.choices, leaf.name: value})
                if _key(point) not in done:
                    self._try(point, leaf.where)
                    done.add(_key(point))

    def _point(self, picked: Mapping[str, Any]) -> list[Setting]:
        return list(
            self._settings(lambda name, node: picked.get(name, node.listed()[0]), chosen={})
        )

    def _try(self, point: Sequence[Setting], where: str | None) -> None:
        try:
            self._compose([override(setting.path, setting.value) for setting in point])
        except InputError as error:
            where = where or _blamed(point, str(error))
            raise InputError(f"{self.file.source}: {where}: {error}") from None

    def _settings(self, pick: Pick, chosen: Mapping[str, Any]) -> Iterator[Setting]:
        for path, value in self.file.fixed.items():
            yield Setting(f"fixed.{path}", path, value)
        yield from self._varied(self.file.space, pick, chosen)

    def _varied(
        self,
        nodes: Mapping[str, Any],
        pick: Pick,
        chosen: Mapping[str, Any],
        above: str = "",
        where: str = "space.",
    ) -> Iterator[Setting]:
        for path, node in nodes.items():
            value = chosen[path] if path in chosen and not above else pick(above + path, node)
            yield Setting(where + path, path, value)
            if isinstance(node, Choice):
                yield from self._varied(
                    node.choice[value],
                    pick,
                    chosen,
                    f"{above}{path}={value}/",
                    f"{where}{path}.choice.{value}.",
                )

    def _leaves(
        self,
        nodes: Mapping[str, Any],
        where: str = "space.",
        above: str = "",
        choices: Mapping[str, str] | None = None,
    ) -> Iterator[Leaf]:
        for path, node in nodes.items():
            yield Leaf(where + path, above + path, node, choices or {})
            for option, branch in node.choice.items() if isinstance(node, Choice) else ():
                yield from self._leaves(
                    branch,
                    f"{where}{path}.choice.{option}.",
                    f"{above}{path}={option}/",
                    {**(choices or {}), above + path: option},
                )


def journal_name(name: str) -> str:
    """Return the name of a parameter in the journal, which is the one of the first version."""
    *choices, path = name.split("/")
    return "/".join([*choices, first_path(path)])


def _key(point: Sequence[Setting]) -> tuple[str, ...]:
    return tuple(override(setting.path, setting.value) for setting in point)


def _blamed(point: Sequence[Setting], message: str) -> str:
    """The setting that a message of ``compose`` is about: the longest path that stands in it."""
    named = [setting for setting in point if setting.path in message]
    return max(named, key=lambda setting: len(setting.path)).where if named else "space"
