"""What one parameter of the search file's ``space`` may be: four kinds, each one small class.

Every kind says how it is drawn (``suggest``), which of its values are worth a check before a sweep
(``listed``) and how it reads in the plan (``describe``).
"""

import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import optuna
from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from mtl.strict import Strict

DottedPath = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")]


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Number = Annotated[int | float, BeforeValidator(_number)]


class Range(Strict):
    """Numbers from ``min`` to ``max``, both inclusive; whole ones if both ends are whole.

    Attributes:
        log: Uniform in the logarithm; ``min`` is then above 0.
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
        """A number of this range, asked of the trial under this name."""
        if isinstance(self.min, int) and isinstance(self.max, int):
            return trial.suggest_int(name, self.min, self.max, log=self.log)
        return trial.suggest_float(name, self.min, self.max, log=self.log)

    def listed(self) -> list[Any]:
        """Both ends."""
        return [self.min, self.max]

    def describe(self) -> str:
        """As ``1e-05 .. 0.01 log``."""
        return f"{self.min} .. {self.max}" + (" log" if self.log else "")


class _Categorical(Strict, ABC):
    """One of ``listed()``."""

    @abstractmethod
    def listed(self) -> list[Any]:
        """All values, in the file's order."""

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Any:
        """One of the values; Optuna stores lists and mappings as compact JSON."""
        values = {stored(value): value for value in self.listed()}
        return values[trial.suggest_categorical(name, list(values))]

    def describe(self) -> str:
        """As ``gru | lstm``."""
        return " | ".join(shown(value) for value in self.listed())


class Values(_Categorical):
    """One of the values written down, each a scalar, a list or a mapping."""

    values: Annotated[tuple[Any, ...], Field(min_length=1)]

    @field_validator("values")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return _once(values)

    def listed(self) -> list[Any]:
        """All values, in the file's order."""
        return list(self.values)


class Subsets(_Categorical):
    """A non-empty subset of the items, in their order; small ones first.

    At most 8 items: 255 subsets are more than a sweep can tell apart.
    """

    subsets_of: Annotated[tuple[str, ...], Field(min_length=1, max_length=8)]

    @field_validator("subsets_of")
    @classmethod
    def _distinct(cls, items: tuple[str, ...]) -> tuple[str, ...]:
        return _once(items)

    def listed(self) -> list[Any]:
        """Every non-empty subset, as a list."""
        sizes = range(1, len(self.subsets_of) + 1)
        return [
            list(subset) for n in sizes for subset in itertools.combinations(self.subsets_of, n)
        ]


class Choice(_Categorical):
    """One of the options; below each stands what varies only when it is chosen."""

    choice: Annotated[dict[str, dict[DottedPath, "Node"]], Field(min_length=1)]

    def listed(self) -> list[Any]:
        """The options' names."""
        return list(self.choice)


KINDS: dict[str, type[Range] | type[_Categorical]] = {
    "values": Values,
    "choice": Choice,
    "subsets_of": Subsets,
    "min": Range,
    "max": Range,
}
"""The key that tells a kind."""


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
"""One varied parameter. The tags' brackets tell them from keys in pydantic's error locations."""

Choice.model_rebuild()


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    seen: list[Any] = []
    for value in map(stored, values):
        # By ==, as Optuna looks choices up: to it 1, 1.0 and true are the same.
        if value in seen:
            raise ValueError(f"{shown(value)} stands there twice: keep one")
        seen.append(value)
    return values


def stored(value: Any) -> Any:
    """A value as Optuna keeps it: lists and mappings as compact JSON, scalars as they are."""
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list | dict) else value


def shown(value: Any) -> str:
    """A value for the eye: a list as ``appearance+geometry``, else as YAML would have it."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "+".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def paths(space: Mapping[str, Range | _Categorical]) -> set[str]:
    """Every path that varies somewhere in the space.

    Raises:
        ValueError: A path that could be set twice in one trial (two options of one choice may
            both name it, as only one of them is taken).
    """
    found: set[str] = set()
    for path, node in space.items():
        branches = node.choice.values() if isinstance(node, Choice) else ()
        inside = set[str]().union(*map(paths, branches))
        twice = found & (inside | {path}) | inside & {path}
        if twice:
            raise ValueError(f"space: {min(twice)!r} could be set twice in one trial: keep one")
        found |= inside | {path}
    return found
