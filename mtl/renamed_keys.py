"""Keys of a trial config that a signature treats specially: operational, renamed or added keys.

A trial's signature must stay the same in every later version of the program. It is therefore a
hash of the config as the first version wrote it: a renamed key is hashed under its first name, and
an added key is left out while it has its default value.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mtl.errors import InputError

OPERATIONAL = ("training.device",)
"""Paths of keys that choose where a trial runs and do not change its result; never hashed."""

RENAMED = {"framework.truth_share": "framework.teacher_forcing_ratio"}
"""Present path of each renamed key by its first path, which is in the same section.

Files and journals may use either path.
"""

ADDED: dict[str, Any] = {}
"""Default value of each key that the first version did not have, by its path.

A new section is one entry, whose default is a mapping.
"""


def present_path(path: str) -> str:
    """Return the present name of a path, which may be given by its first name."""
    return RENAMED.get(path, path)


def first_path(path: str) -> str:
    """Return the name that a path had in the first version."""
    return next((first for first, present in RENAMED.items() if present == path), path)


def with_present_names(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with each key under its present name.

    Raises:
        InputError: A key is given under both of its names.
    """
    return _renamed(plain, present_path)


def hashed_settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a signature is hashed from, under their first names.

    Args:
        plain: Nested settings under their present names.
    """
    return _renamed(_without_unhashed(plain), first_path)


def _renamed(
    plain: Mapping[str, Any], name_of: Callable[[str], str], prefix: str = ""
) -> dict[str, Any]:
    """Return nested settings with the path of each key replaced by ``name_of(path)``."""
    result: dict[str, Any] = {}
    for key, value in plain.items():
        path = f"{prefix}{key}"
        name = name_of(path).removeprefix(prefix)
        if name in result:
            raise InputError(f"{path} is given under two names: keep only {prefix}{name}")
        result[name] = _renamed(value, name_of, f"{path}.") if isinstance(value, Mapping) else value
    return result


def _without_unhashed(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings without operational keys and without added keys at their default."""
    result: dict[str, Any] = {}
    for key, value in plain.items():
        path = f"{prefix}{key}"
        if path in OPERATIONAL or (path in ADDED and value == ADDED[path]):
            continue
        nested = isinstance(value, Mapping)
        result[key] = _without_unhashed(value, f"{path}.") if nested else value
    return result
