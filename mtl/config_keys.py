"""Keys of a trial config that are special: operational, renamed or added since the first version.

A signature outlives versions: it is the hash of the keys of the first version. A key that has
another name today is hashed under its first name, and a key that was added is left out while it
holds its default.
"""

from collections.abc import Callable, Mapping
from typing import Any

OPERATIONAL = ("training.device",)
"""Paths that change where a trial runs, not its result: they have no part in its signature."""

RENAMED = {"framework.truth_share": "framework.teacher_forcing_ratio"}
"""First name -> present name. Files and journals with the first name are read as ever."""

ADDED: dict[str, Any] = {}
"""Path -> default of each key that the first version did not have."""


def present_path(path: str) -> str:
    """Return the present name of a path, which may be given by its first name."""
    return RENAMED.get(path, path)


def first_path(path: str) -> str:
    """Return the name that a path had in the first version."""
    return next((first for first, present in RENAMED.items() if present == path), path)


def with_present_names(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with each key under its present name."""
    return _renamed(plain, present_path)


def hashed_settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of nested settings that a signature covers, under the first names."""
    kept = _without_unhashed(plain)
    return _renamed(kept, first_path)


def _renamed(
    plain: Mapping[str, Any], name_of: Callable[[str], str], above: str = ""
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in plain.items():
        path = f"{above}{key}"
        name = name_of(path).removeprefix(above)
        result[name] = _renamed(value, name_of, f"{path}.") if isinstance(value, Mapping) else value
    return result


def _without_unhashed(plain: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in plain.items():
        path = f"{above}{key}"
        if path in OPERATIONAL or (path in ADDED and value == ADDED[path]):
            continue
        nested = isinstance(value, Mapping)
        result[key] = _without_unhashed(value, f"{path}.") if nested else value
    return result
