"""What pydantic found wrong with a search file, as one sentence."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mtl.strict import did_you_mean

RULES = {
    "too_short": "it must not be empty",
    "dict_type": "it must be a mapping, {} where it has nothing to say",
    "model_attributes_type": "it must be a mapping",
    "model_type": "it must be a mapping",
    "tuple_type": "it must be a list",
    "string_type": "it must be text, in quotes if it looks like a number",
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "kind": "write {min: 1, max: 4}, {values: [...]}, {choice: {...}} or {subsets_of: [...]}; "
    "a single value belongs under fixed",
}
"""Plain words for pydantic's, by error type."""


def sentence(error: ValidationError, keys: Mapping[str, Sequence[str]]) -> str:
    """The first fault: dotted path, value found, rule.

    Args:
        error: What pydantic found. Parts of a location in angle brackets are tags of a union.
        keys: The known keys, by the last part of the location that holds them.
    """
    errors = error.errors(include_url=False)
    # A misspelt key is often a missing one too: the misspelling is the cause.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    kind, where, value = first["type"], _dotted(first["loc"]), first["input"]
    if kind == "extra_forbidden":
        return f"{where} is no known key{_hint(first['loc'], keys)}"
    if kind == "missing":
        return f"{where} is missing: add it"
    rule = first["msg"][0].lower() + first["msg"][1:]
    if kind == "value_error":
        rule = str(first["ctx"]["error"])
    if not where:
        return rule
    if first["loc"][-1] == "[key]":
        return f"{where} is no dotted path of letters, digits and '_', as optim.lr"
    return f"{where} = {_short(value)} is refused: {RULES.get(kind, rule)}"


def _dotted(location: Sequence[int | str]) -> str:
    parts = [str(part) for part in location]
    return ".".join(part for part in parts if not part.startswith("<") and part != "[key]")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _hint(location: Sequence[int | str], keys: Mapping[str, Sequence[str]]) -> str:
    *above, key = map(str, location)
    return did_you_mean(key, keys[above[-1] if above else ""])
