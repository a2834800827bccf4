"""Conversion of pydantic's validation errors of a search file to one sentence for the user."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mtl.errors import shortened
from mtl.strict import did_you_mean

RULES = {
    "too_short": "it must not be empty",
    "dict_type": "it must be a mapping, {} for an empty one",
    "model_attributes_type": "it must be a mapping",
    "model_type": "it must be a mapping",
    "tuple_type": "it must be a list",
    "string_type": "it must be text, in quotes if it looks like a number",
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "kind": "write {min: 1, max: 4}, {values: [...]}, {choice: {...}} or {subsets_of: [...]}; "
    "a single value belongs under fixed",
}
"""Text for the user by pydantic's error type, where pydantic's own text is unclear."""


def describe_error(error: ValidationError, keys: Mapping[str, Sequence[str]]) -> str:
    """Return the first error in a search file as one sentence with the key, the value and the rule.

    Args:
        error: Validation error of pydantic, which may list several errors.
        keys: Allowed keys of each section by its name, for suggesting the key that was meant. The
            top-level keys have the empty name, those of a range its kind, such as ``<Range>``.
    """
    errors = error.errors(include_url=False)
    # A misspelt key often leads to a second error, a missing key; the misspelling is the cause.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    kind, path, value = first["type"], _dotted(first["loc"]), first["input"]
    if kind == "extra_forbidden":
        return f"{path} is no known key{_hint(first['loc'], keys)}"
    if kind == "missing":
        return f"{path} is missing: add it"
    rule = first["msg"][0].lower() + first["msg"][1:]
    if kind == "value_error":
        rule = str(first["ctx"]["error"])
    if not path:
        return rule
    if first["loc"][-1] == "[key]":
        return f"{path} is no dotted path of letters, digits and '_', as optim.lr"
    return f"{path} = {short_json(value)} is refused: {RULES.get(kind, rule)}"


def _dotted(location: Sequence[int | str]) -> str:
    if location[:2] == ("search", "first") and len(location) > 2:
        place = f"search.first, point {int(location[2]) + 1}"
        return ": ".join(filter(None, [place, _dotted(location[3:])]))
    parts = [str(part) for part in location]
    return ".".join(part for part in parts if not part.startswith("<") and part != "[key]")


def short_json(value: Any) -> str:
    """Return a value as JSON text of at most 80 characters; longer text ends with three dots."""
    return shortened(json.dumps(value, ensure_ascii=False))


def _hint(location: Sequence[int | str], keys: Mapping[str, Sequence[str]]) -> str:
    *above, key = map(str, location)
    return did_you_mean(key, keys[above[-1] if above else ""])
