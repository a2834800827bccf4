"""Search space of a search file as conditional Optuna parameters, drawn as Hydra overrides."""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import optuna

from mtl.errors import InputError
from mtl.renamed_keys import first_path
from sweeps.search_file import SearchFile
from sweeps.search_file.overrides import format_override
from sweeps.search_file.ranges import Choice, Values, display_value

Pick = Callable[[str, Any], Any]
"""Function that picks a parameter's value, given its name and its ranges in the search file."""
Config = TypeVar("Config")
MODEL_KEYS = ("features", "encoder", "head", "framework", "tasks")
"""First words of the config keys on which the size of a model depends."""


class Setting(NamedTuple):
    """Config key set to one value by the search file.

    Attributes:
        where: Place of the setting in the search file, as a dotted path, for messages.
        path: The config key with dots, such as ``encoder.layers``.
        value: The key's value.
    """

    where: str
    path: str
    value: Any


class Leaf(NamedTuple):
    """Parameter that the search file varies.

    Attributes:
        where: Place of the parameter in the search file, as a dotted path, for messages.
        name: Choices that the parameter depends on, then its config key, such as
            ``encoder=gru/encoder.layers``.
        node: Values that the parameter may take: a range, listed values, subsets or a choice.
        choices: Choices that the parameter depends on: name of the choice -> chosen option.
    """

    where: str
    name: str
    node: Any
    choices: Mapping[str, str]

    @property
    def path(self) -> str:
        """The parameter's config key, such as ``encoder.layers``."""
        return self.name.rpartition("/")[2]


class Space:
    """Search space of a search file, from which Optuna trials draw points.

    The name of a parameter in Optuna starts with the choices that it depends on, as
    ``encoder=gru/encoder.layers``, so the same config key may have other bounds under another
    option.

    Args:
        file: The loaded search file.
    """

    def __init__(self, file: SearchFile) -> None:
        self.file = file

    def sample(
        self, trial: optuna.trial.BaseTrial, chosen: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Draw a point of the search space with an Optuna trial and return it as Hydra overrides.

        The values that the search file fixes come first.

        Args:
            trial: The Optuna trial.
            chosen: Values of compared parameters by config key; they are not drawn.
        """
        settings = self._settings(
            lambda name, node: node.suggest(trial, journal_name(name)), chosen or {}
        )
        return [format_override(setting.path, setting.value) for setting in settings]

    def comparisons(self) -> list[dict[str, Any]]:
        """Return all combinations of the values that the search file compares, in the file's order.

        A combination is a dict, config key -> value. Without a comparison the list is [{}].
        """
        by = self.file.compare.by
        values = [self.file.space[path].representative_values() for path in by]
        return [
            dict(zip(by, combination, strict=True)) for combination in itertools.product(*values)
        ]

    @staticmethod
    def label(combination: Mapping[str, Any]) -> str:
        """Return the label of a combination of compared values, as ``gru,linear``.

        The label ends the name of the combination's Optuna study.

        Args:
            combination: Config key -> value.
        """
        return ",".join(display_value(value) for value in combination.values())

    def describe(self) -> list[str]:
        """Return one line for each varied parameter: its name and its values or bounds."""
        leaves = [leaf for leaf in self.leaves() if len(leaf.node.representative_values()) > 1]
        width = max((len(leaf.name) for leaf in leaves), default=0)
        return [f"{leaf.name:{width}}  {leaf.node.describe()}" for leaf in leaves]

    def leaves(self) -> list[Leaf]:
        """Return all parameters that the search file varies, a choice before those under it."""
        return list(self._leaves(self.file.space))

    def check(self, compose: Callable[[Sequence[str]], Config]) -> list[Config]:
        """Compose every listed value and both ends of every range; return the configs.

        Each value is composed together with the first value of every other parameter, so a point
        that fails is one that the sweep could draw.

        Args:
            compose: Function that turns overrides into a trial config, or raises ``InputError``.

        Raises:
            InputError: If a point does not compose; the message names the place in the search file
                and the fault.
        """
        first = self._point({})
        configs = [self._try(compose, first, None)]
        done = {_key(first)}
        for leaf in self.leaves():
            for value in leaf.node.representative_values():
                point = self._point({**leaf.choices, leaf.name: value})
                if _key(point) not in done:
                    configs.append(self._try(compose, point, leaf.where))
                    done.add(_key(point))
        return configs

    def largest(self, size: Callable[[tuple[str, ...]], int]) -> int:
        """Return the size of the largest model of the space.

        Ranges are at their upper bounds. Of the listed values and options the largest are found one
        parameter after another.

        Args:
            size: Function that returns the size of the model of a point, given as Hydra overrides;
                0 if it has none.
        """
        size = functools.cache(size)
        picked: dict[str, Any] = {}
        best = size(_key(self._point(picked, _largest)))
        for leaf in self.leaves():
            listed = isinstance(leaf.node, Choice | Values)
            if not (listed and leaf.path.partition(".")[0] in MODEL_KEYS):
                continue
            for value in leaf.node.representative_values():
                other = {**picked, **leaf.choices, leaf.name: value}
                found = size(_key(self._point(other, _largest)))
                if found > best:
                    picked, best = other, found
        return best

    def _point(
        self,
        picked: Mapping[str, Any],
        other: Callable[[Sequence[Any]], Any] = lambda values: values[0],
    ) -> list[Setting]:
        """Return a point with some values by name; of other parameters it has a chosen value."""
        return list(
            self._settings(
                lambda name, node: picked.get(name, other(node.representative_values())), chosen={}
            )
        )

    def _try(
        self,
        compose: Callable[[Sequence[str]], Config],
        point: Sequence[Setting],
        where: str | None,
    ) -> Config:
        try:
            return compose([format_override(setting.path, setting.value) for setting in point])
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


def _largest(values: Sequence[Any]) -> Any:
    """Return the largest of some numbers, and of other values the last one."""
    numbers = all(isinstance(value, int | float) for value in values)
    return max(values) if numbers else values[-1]


def journal_name(name: str) -> str:
    """Return the name of a parameter in Optuna's journal, where renamed keys keep their first name.

    Args:
        name: Name of the parameter, as ``encoder=gru/encoder.layers``.
    """
    *choices, path = name.split("/")
    return "/".join([*choices, first_path(path)])


def _key(point: Sequence[Setting]) -> tuple[str, ...]:
    return tuple(format_override(setting.path, setting.value) for setting in point)


def _blamed(point: Sequence[Setting], message: str) -> str:
    """Return the place in the search file of the setting that an error message names.

    If the message names several, it is the one with the longest config key.
    """
    named = [setting for setting in point if setting.path in message]
    return max(named, key=lambda setting: len(setting.path)).where if named else "space"
