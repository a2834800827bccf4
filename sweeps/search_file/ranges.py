"""Ranges of the parameters in a search file's ``space``, one class for each of the four kinds.

Each class has the methods ``suggest`` (Optuna's value for a trial), ``member`` (check of a given
value), ``representative_values`` (values to check before a sweep) and ``describe`` (text for the
user).
"""

import itertools
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import optuna
from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from mtl.strict import Strict

DottedPath = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")]


def _number(value: Any) -> Any:
    """Return a finite number unchanged; raise ValueError for any other value.

    A whole number that is too large for a float is not finite, since Optuna computes with floats.
    """
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if not number or not abs(value) <= sys.float_info.max:
        raise ValueError("must be a finite number")
    return value


Number = Annotated[int | float, BeforeValidator(_number)]


class NotWhole(ValueError):
    """Number that is between the bounds of a range of integers, but written as no integer."""


class Range(Strict):
    """Range of the numbers from ``min`` to ``max``, both inclusive.

    The numbers are integers if both bounds are integers.

    Attributes:
        min: Lower bound.
        max: Upper bound.
        log: True to draw uniformly in the logarithm; ``min`` must then be above 0.
    """

    min: Number
    max: Number
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.min > self.max:
            raise ValueError("min must not be above max: swap them")
        if self.log and self.min <= 0:
            raise ValueError("log needs min above 0: raise min, or write log: false")
        return self

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> int | float:
        """Return a number between the bounds, as the Optuna trial suggests it.

        Args:
            trial: The Optuna trial.
            name: Name of the parameter in Optuna.
        """
        if isinstance(self.min, int) and isinstance(self.max, int):
            return trial.suggest_int(name, self.min, self.max, log=self.log)
        return trial.suggest_float(name, self.min, self.max, log=self.log)

    def member(self, value: Any) -> int | float:
        """Return the number of this range that equals a value of a search file.

        Raises:
            NotWhole: If the bounds are integers and the value is not.
            ValueError: If the value is outside the range.
        """
        whole = isinstance(self.min, int) and isinstance(self.max, int)
        if not self.min <= _number(value) <= self.max:
            raise ValueError("must be in the range")
        if whole and not isinstance(value, int):
            raise NotWhole("it must be a whole number, without a decimal point")
        return int(value) if whole else float(value)

    def representative_values(self) -> list[Any]:
        """Return the lower and the upper bound as a list."""
        return [self.min, self.max]

    def describe(self) -> str:
        """Return the bounds as text, such as ``1e-05 .. 0.01 log``."""
        return f"{self.min} .. {self.max}" + (" log" if self.log else "")


class _Categorical(Strict, ABC):
    """Base class of the ranges with a finite number of values."""

    @abstractmethod
    def representative_values(self) -> list[Any]:
        """Return all values of the range in the order of the search file."""

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Any:
        """Return one of the values, as the Optuna trial suggests it.

        Args:
            trial: The Optuna trial.
            name: Name of the parameter in Optuna.
        """
        values = {optuna_value(value): value for value in self.representative_values()}
        return values[trial.suggest_categorical(name, list(values))]

    def member(self, value: Any) -> Any:
        """Return the value of this range that equals a value of a search file.

        Raises:
            ValueError: If the range has no such value.
        """
        for member in self.representative_values():
            if equal(member, value):
                return member
        raise ValueError("must be a value of the range")

    def describe(self) -> str:
        """Return the values as text, such as ``gru | lstm``."""
        return " | ".join(display_value(value) for value in self.representative_values())


class Values(_Categorical):
    """Range that consists of the listed values.

    Attributes:
        values: The values, each a text, number, boolean, list or mapping.
    """

    values: Annotated[tuple[Any, ...], Field(min_length=1)]

    @field_validator("values")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        for value in values:
            if isinstance(value, int | float) and not isinstance(value, bool):
                _number(value)
        return _without_duplicates(values)

    def representative_values(self) -> list[Any]:
        """Return all values of the range in the order of the search file."""
        return list(self.values)


class Subsets(_Categorical):
    """Range whose values are all non-empty subsets of some items, such as feature sets.

    Attributes:
        subsets_of: The items, at most 8; these have 255 subsets, more than a sweep can compare.
            A subset keeps their order.
    """

    subsets_of: Annotated[tuple[str, ...], Field(min_length=1, max_length=8)]

    @field_validator("subsets_of")
    @classmethod
    def _distinct(cls, items: tuple[str, ...]) -> tuple[str, ...]:
        return _without_duplicates(items)

    def representative_values(self) -> list[Any]:
        """Return all non-empty subsets of the items, each as a list, the smallest first."""
        sizes = range(1, len(self.subsets_of) + 1)
        return [
            list(subset) for n in sizes for subset in itertools.combinations(self.subsets_of, n)
        ]


class Choice(_Categorical):
    """Range of named options; each option may have parameters that vary only under this option.

    Attributes:
        choice: For each option, the ranges of its parameters by config key.
    """

    choice: Annotated[dict[str, dict[DottedPath, "Node"]], Field(min_length=1)]

    def representative_values(self) -> list[Any]:
        """Return the names of all options in the order of the search file."""
        return list(self.choice)


KINDS: dict[str, type[Range] | type[_Categorical]] = {
    "values": Values,
    "choice": Choice,
    "subsets_of": Subsets,
    "min": Range,
    "max": Range,
}
"""Key of a range in a search file -> class of the range; a range is recognised by this key."""


def _kind(node: Any) -> str | None:
    if isinstance(node, Mapping):
        return next((f"<{KINDS[key].__name__}>" for key in KINDS if key in node), None)
    return f"<{type(node).__name__}>"


Node = Annotated[
    Annotated[Range, Tag("<Range>")]
    | Annotated[Values, Tag("<Values>")]
    | Annotated[Choice, Tag("<Choice>")]
    | Annotated[Subsets, Tag("<Subsets>")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="is of no known kind"),
]
"""Range of one parameter of a search file, of one of the four kinds.

Pydantic's errors name the kind (such as ``<Range>``) beside keys of the file; the angle brackets
distinguish the two.
"""

Choice.model_rebuild()


def _without_duplicates(values: tuple[Any, ...]) -> tuple[Any, ...]:
    seen: list[Any] = []
    for value in map(optuna_value, values):
        # Compared by ==, as Optuna compares choices: for it 1, 1.0 and true are the same.
        if value in seen:
            raise ValueError(f"{display_value(value)} is listed twice: keep one")
        seen.append(value)
    return values


def equal(one: Any, other: Any) -> bool:
    """Return True if two values of a config key are equal; true and 1 are not, 1 and 1.0 are.

    Args:
        one: Text, number, boolean or None, or a list or mapping of such values.
        other: A value of the same kinds.
    """
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def optuna_value(value: Any) -> Any:
    """Return a value in the form that Optuna stores: lists and mappings as compact JSON text."""
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list | dict) else value


def display_value(value: Any) -> str:
    """Return a value as text for the user.

    A list of texts becomes ``appearance+geometry``, a text stays as it is, and any other value is
    written as JSON.
    """
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "+".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def all_paths(space: Mapping[str, Range | _Categorical]) -> set[str]:
    """Return all config keys (such as ``encoder.layers``) in the space of a search file.

    Keys that vary only under one option of another key (such as ``encoder: gru``) are included.

    Args:
        space: Range of each config key.

    Raises:
        ValueError: If a trial could set a key twice. Two options of the same key may share a key,
            since a trial has only one of the options.
    """
    result: set[str] = set()
    for path, node in space.items():
        branches = node.choice.values() if isinstance(node, Choice) else ()
        inside = set[str]().union(*map(all_paths, branches))
        twice = result & (inside | {path}) | inside & {path}
        if twice:
            raise ValueError(f"space: {min(twice)!r} could be set twice in one trial: keep one")
        result |= inside | {path}
    return result
