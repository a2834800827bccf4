from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from mtl.errors import InputError
from mtl.strict import (
    AboveZero,
    Component,
    NonNegative,
    Positive,
    Probability,
    Strict,
    component_of,
    did_you_mean,
    validate_as,
)


class Small:
    """Component with two keyword parameters, one with a default, and a positional parameter."""

    def __init__(self, features: int, *, hidden: Positive, dropout: Probability = 0.5) -> None:
        self.settings = (features, hidden, dropout)


class Large(Small):
    """Component that inherits its parameters."""


class Other:
    """Component with a list and a choice as parameters."""

    def __init__(self, *, widths: tuple[Positive, ...], mode: Literal["fast", "slow"]) -> None:
        self.settings = (widths, mode)


REGISTRY: dict[str, type] = {"small": Small, "large": Large, "other": Other}


class Inner(Strict):
    """Nested settings with two numbers."""

    rate: AboveZero
    decay: NonNegative


class Settings(Strict):
    """Settings with one value of each kind."""

    part: Annotated[Component, component_of("part", REGISTRY)]
    inner: Inner
    count: Positive
    names: Annotated[tuple[str, ...], Field(min_length=1)]


PLAIN: dict[str, Any] = {
    "part": {"name": "small", "hidden": 3},
    "inner": {"rate": 1e-3, "decay": 0},
    "count": 2,
    "names": ["a"],
}


def read(**changes: Any) -> Settings:
    return validate_as(Settings, PLAIN | changes)


def test_components_are_built_from_their_parameters() -> None:
    found = read(part={"name": "small", "hidden": 3}).part
    assert found.name == "small"
    assert found.parameters == {"hidden": 3, "dropout": 0.5}
    assert Small(7, **found.parameters).settings == (7, 3, 0.5)
    assert read(part={"name": "large", "hidden": 4, "dropout": 0}).part.parameters == {
        "hidden": 4,
        "dropout": 0.0,
    }
    other = read(part={"name": "other", "widths": [5, 6], "mode": "fast"}).part
    assert other.parameters == {"widths": (5, 6), "mode": "fast"}


def test_a_value_may_be_a_component_object() -> None:
    part = read().part
    assert Settings(part=part, inner=read().inner, count=2, names=("a",)).part is part


def test_integers_are_accepted_as_floats() -> None:
    inner = read(inner={"rate": 1, "decay": 2}).inner
    assert (inner.rate, inner.decay) == (1.0, 2.0)
    assert isinstance(inner.rate, float)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read().count = 3


NAN, INF = float("nan"), float("inf")
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"cuont": 2}, "cuont is no known key: did you mean 'count'?"),
    ({"zzz": 2}, "zzz is no known key; known are part, inner, count, names"),
    (
        {"inner": {"rat": 1, "rate": 1, "decay": 0}},
        "inner.rat is no known key: did you mean 'inner.rate",
    ),
    ({"inner": {"rate": 1}}, "inner.decay is missing"),
    ({"inner": {"rate": 0, "decay": 0}}, "inner.rate = 0 is refused: input should be greater than"),
    ({"inner": {"rate": NAN, "decay": 0}}, "inner.rate = nan is refused"),
    ({"inner": {"rate": 1, "decay": INF}}, "inner.decay = inf is refused"),
    ({"inner": {"rate": 1, "decay": -0.1}}, "inner.decay = -0.1 is refused"),
    ({"inner": {"rate": "1", "decay": 0}}, "inner.rate = '1' is refused"),
    ({"inner": {"rate": True, "decay": 0}}, "inner.rate = True is refused"),
    ({"inner": 3}, "inner = 3 is refused"),
    ({"inner": None}, "inner = None is refused"),
    ({"count": 2.0}, "count = 2.0 is refused"),
    ({"count": 0}, "count = 0 is refused: input should be greater than or equal to 1"),
    ({"count": True}, "count = True is refused"),
    ({"count": "2"}, "count = '2' is refused"),
    ({"names": []}, "names = [] is refused"),
    ({"names": "a"}, "names = 'a' is refused"),
    ({"names": ["a", 3]}, "names.1 = 3 is refused"),
    ({"part": {"name": "smal", "hidden": 3}}, "part = 'smal' is unknown: did you mean 'small'?"),
    ({"part": {"name": "zzz"}}, "part = 'zzz' is unknown; known are small, large, other"),
    ({"part": {"hidden": 3}}, "part must be a mapping with a name, but got {'hidden': 3}"),
    ({"part": "small"}, "part.hidden is missing"),
    ({"part": ["small"]}, "part must be a mapping with a name, but got ['small']"),
    ({"part": {"name": 3}}, "part must be a mapping with a name"),
    ({"part": {"name": "small"}}, "part.hidden is missing"),
    ({"part": {"name": "small", "hidden": 0}}, "part.hidden = 0 is refused"),
    ({"part": {"name": "small", "hidden": 3, "dropout": 1}}, "part.dropout = 1 is refused"),
    ({"part": {"name": "small", "hiden": 3, "hidden": 3}}, "part.hiden is no known key: did you"),
    ({"part": {"name": "small", "features": 3, "hidden": 3}}, "part.features is no known key"),
    ({"part": {"name": "other", "widths": [4, 0], "mode": "fast"}}, "part.widths.1 = 0 is refused"),
    (
        {"part": {"name": "other", "widths": [], "mode": "fats"}},
        "part.mode = 'fats' is refused: input should be 'fast' or 'slow'",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), REFUSED, ids=[s for _, s in REFUSED])
def test_faults_are_named_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        read(**changes)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__


def test_the_prefix_precedes_the_path() -> None:
    with pytest.raises(InputError, match=r"^search\.inner\.decay is missing$"):
        validate_as(Settings, PLAIN | {"inner": {"rate": 1}}, "search")


def test_did_you_mean() -> None:
    assert did_you_mean("gur", ["gru", "lstm"]) == ": did you mean 'gru'?"
    assert did_you_mean("zzz", ["gru", "lstm"]) == "; known are gru, lstm"
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("zzz", iter(["gru"])) == "; known are gru"
