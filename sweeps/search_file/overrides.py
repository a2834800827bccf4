"""Overrides ``key=value``: applying them to a search file, and writing them for Hydra."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from mtl.errors import InputError
from mtl.renamed_keys import present_path
from sweeps.search_file.strict_yaml import parse_yaml

OVERRIDE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)=(.*)", re.ASCII | re.DOTALL)
TEXT_KEYS = ("name", "data")
"""Keys of a search file with text values, even if a value looks like a number: ``name=2024``."""

UNQUOTED = re.compile(r"(?!(?:true|false|null|inf|nan)$)[A-Za-z_][\w-]*", re.ASCII | re.IGNORECASE)
"""Pattern of texts that need no quotes in an override for Hydra."""


def apply_overrides(
    raw: Mapping[str, Any], overrides: Sequence[str], keys: Collection[str]
) -> dict[str, Any]:
    """Return the content of a search file with overrides applied in their order.

    Args:
        raw: Content of the YAML file, not validated.
        overrides: Texts ``key=value`` with the value in YAML, such as ``search.trials=4``.
        keys: Top-level keys of the file. An override of any other key, such as ``encoder=gru``,
            changes the trial config: the key is fixed to the value in all trials.

    Raises:
        InputError: If an override has another form than ``key=value`` or its value is not YAML.
    """
    result = dict(raw)
    for word in overrides:
        path, value = _parsed(word)
        first, _, rest = path.partition(".")
        if first not in keys:
            _fix_path(result, path, value)
        elif rest:
            # The keys of fixed and space are dotted paths, those of other sections single words.
            rest = present_path(rest) if first in ("fixed", "space") else rest
            result[first] = {**_mapping(result, first, word), rest: value}
        else:
            result[first] = value
    return result


def _parsed(word: str) -> tuple[str, Any]:
    match = OVERRIDE.fullmatch(word)
    if not match:
        raise InputError(f"{word!r} is no override: write path=value, as search.trials=4")
    path, text = match.groups()
    path = present_path(path)
    return path, text if path in TEXT_KEYS else parse_yaml(text, f"override {word!r}")


def _mapping(raw: Mapping[str, Any], key: str, word: str) -> dict[str, Any]:
    value = raw.get(key)
    if value is not None and not isinstance(value, dict):
        raise InputError(f"override {word!r}: the search file's {key} = {value!r} is no mapping")
    return value or {}


def _fix_path(raw: dict[str, Any], path: str, value: Any) -> None:
    word = f"{path}={value}"
    raw["fixed"] = {**_mapping(raw, "fixed", word), path: value}
    raw["space"] = _without_path(_mapping(raw, "space", word), path, value)


def _without_path(space: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a search space without one config key, which gets a fixed value.

    If the key has options with parameters of their own (such as ``encoder``), the parameters of the
    option that is the fixed value stay in the space.

    Args:
        space: Range of each config key, as in the search file.
        path: Config key to remove.
        value: Fixed value of the key.
    """
    remaining: dict[str, Any] = {}
    for key, node in space.items():
        choice = node.get("choice") if isinstance(node, dict) else None
        branches = choice if isinstance(choice, dict) else {}
        if key == path:
            branch = branches.get(str(value))
            remaining |= branch if isinstance(branch, dict) else {}
        elif branches:
            choice = {
                option: _without_path(branch, path, value) if isinstance(branch, dict) else branch
                for option, branch in branches.items()
            }
            remaining[key] = {**node, "choice": choice}
        else:
            remaining[key] = node
    return remaining


def values_by_path(overrides: Iterable[str]) -> dict[str, str]:
    """Return the values of overrides as a dict: config key -> value as text.

    A key that has been renamed is returned with its present name.

    Args:
        overrides: Texts ``key=value``, such as ``encoder.layers=2``.
    """
    pairs = (override.split("=", 1) for override in overrides)
    return {present_path(path): value for path, value in pairs}


def varied_paths(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the config keys that do not have the same value in all trials.

    The keys are in the order in which they appear first.

    Args:
        settings: For each trial a mapping: config key, such as ``encoder.layers`` -> value as text.
    """
    paths = dict.fromkeys(path for values in settings for path in values)
    return [path for path in paths if len({values.get(path) for values in settings}) > 1]


def format_override(path: str, value: Any) -> str:
    """Return the override ``path=value`` of a config key in Hydra's grammar.

    Floats are written with all their digits.
    """
    return f"{path}={hydra_value(value)}"


def hydra_value(value: Any) -> str:
    """Return a value as text in the grammar of Hydra's overrides; Hydra reads the same value.

    Args:
        value: Text, number, boolean or None, or a list or mapping of such values.
    """
    if isinstance(value, str):
        return value if UNQUOTED.fullmatch(value) else _quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(hydra_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{hydra_value(item)}" for key, item in value.items()) + "}"
    return repr(value) if isinstance(value, float) else json.dumps(value)


def _quoted(text: str) -> str:
    # A backslash is an escape only before a quote, so only those before a quote are doubled.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"
