"""Overrides: a command line's, laid over a search file, and a trial's, in Hydra's grammar."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mtl.config_keys import present_path
from mtl.errors import InputError
from sweeps.search_file.strict_yaml import parse_yaml

WORD = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(.*)", re.ASCII | re.DOTALL)
TEXT = ("name", "data")
"""Keys whose value is text whatever it looks like: a folder may be called 2024."""

BARE = re.compile(r"(?!(?:true|false|null|inf|nan)$)[A-Za-z_][\w-]*", re.ASCII | re.IGNORECASE)
"""Text that Hydra's grammar takes without quotes, as text."""


def apply_overrides(
    raw: Mapping[str, Any], words: Sequence[str], keys: Collection[str]
) -> dict[str, Any]:
    """A search file's plain data with overrides laid over it, the last word winning.

    Args:
        raw: The file as read; its nodes need not be valid.
        words: ``path=value``, the value in YAML.
        keys: The file's own keys; a path that starts with none of them is the trial config's.

    Raises:
        InputError: A word that is no ``path=value``, or a value that is no YAML.
    """
    result = dict(raw)
    for word in words:
        path, value = _parsed(word)
        first, _, rest = path.partition(".")
        if first not in keys:
            _fix(result, path, value)
        elif rest:
            # fixed and space have dotted paths for keys, the others have single words.
            result[first] = {**_mapping(result, first, word), rest: value}
        else:
            result[first] = value
    return result


def _parsed(word: str) -> tuple[str, Any]:
    match = WORD.fullmatch(word)
    if not match:
        raise InputError(f"{word!r} is no override: write path=value, as search.trials=4")
    path, text = match.groups()
    path = present_path(path)
    return path, text if path in TEXT else parse_yaml(text, f"override {word!r}")


def _mapping(raw: Mapping[str, Any], key: str, word: str) -> dict[str, Any]:
    value = raw.get(key)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"override {word!r}: the search file's {key} = {value!r} is no mapping")
    return value or {}


def _fix(raw: dict[str, Any], path: str, value: Any) -> None:
    word = f"{path}={value}"
    raw["fixed"] = {**_mapping(raw, "fixed", word), path: value}
    raw["space"] = _released(_mapping(raw, "space", word), path, value)


def _released(space: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The space without the path; of a choice that had it, the branch of that value stays."""
    left: dict[str, Any] = {}
    for key, node in space.items():
        choice = node.get("choice") if isinstance(node, dict) else None
        branches = choice if isinstance(choice, dict) else {}
        if key == path:
            branch = branches.get(str(value))
            left |= branch if isinstance(branch, dict) else {}
        elif branches:
            below = {
                option: _released(branch, path, value) if isinstance(branch, dict) else branch
                for option, branch in branches.items()
            }
            left[key] = {**node, "choice": below}
        else:
            left[key] = node
    return left


def by_path(overrides: Iterable[str]) -> dict[str, str]:
    """Return the values of overrides, as they are written, by the present names of their paths."""
    pairs = (word.split("=", 1) for word in overrides)
    return {present_path(path): value for path, value in pairs}


def varied_paths(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The paths whose value differs among settings, in the order in which they come."""
    paths = dict.fromkeys(path for one in settings for path in one)
    return [path for path in paths if len({one.get(path) for one in settings}) > 1]


def override(path: str, value: Any) -> str:
    """``path=value`` in Hydra's grammar, numbers to their last bit."""
    return f"{path}={hydra_value(value)}"


def hydra_value(value: Any) -> str:
    """A plain value in Hydra's override grammar; it reads back to the same."""
    if isinstance(value, str):
        return value if BARE.fullmatch(value) else _quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(hydra_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{hydra_value(item)}" for key, item in value.items()) + "}"
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _quoted(text: str) -> str:
    # Backslashes count only before a quote: there, and before the closing one, they are doubled.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"
