"""Config keys that a trial's signature treats specially: operational, renamed and added keys.

The signature (hash of a trial's config and dataset) must stay the same in every later version of
the program. The hashed config is therefore the one that the first version would have written: a
renamed key is hashed under its first name, and a key that a later version added is left out while
it has its default value. Keys are given with dots, such as ``encoder.layers``.
"""

from collections.abc import Callable, Mapping
from typing import Any

from mtl.errors import InputError

OPERATIONAL = ("training.device",)
"""Config keys that choose where a trial runs; they do not change results and are not hashed."""

RENAMED = {"framework.truth_share": "framework.teacher_forcing_ratio"}
"""Map from the first name of each renamed config key to the present name, in the same section.

Files and journals may use either name.
"""

ADDED: dict[str, Any] = {
    "encoder.norm": "post",
    "optim.warmup_steps": None,
    "optim.lr_reference_width": None,
}
"""Default value of each config key that the first version of the program did not have.

A section that a later version added is one entry: the section's name, with the mapping of the
section's default settings.
"""


def present_path(path: str) -> str:
    """Return the present name of a config key, which may be given under its first name.

    Args:
        path: Config key with dots, such as ``encoder.layers``; returned unchanged unless it is the
            first name of a renamed key.
    """
    return RENAMED.get(path, path)


def first_path(path: str) -> str:
    """Return the name that a config key had in the first version of the program.

    Args:
        path: Present name of the config key with dots, such as ``encoder.layers``; returned
            unchanged unless the key was renamed.
    """
    return next((first for first, present in RENAMED.items() if present == path), path)


def with_present_names(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with every renamed key under its present name.

    Args:
        plain: Nested settings; a key may have its present name or its first name.

    Raises:
        InputError: If a key is given under both of its names.
    """
    return _renamed(plain, present_path)


def hashed_settings(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a trial's signature hashes, under the names of the first version.

    Left out are keys that only choose where a trial runs, and keys that a later version added and
    that have their default value.

    Args:
        plain: Nested settings under their present names.
    """
    return _renamed(_without_unhashed(plain), first_path)


def _renamed(
    plain: Mapping[str, Any], name_of: Callable[[str], str], prefix: str = ""
) -> dict[str, Any]:
    """Return a copy of nested settings in which the keys have the names that a function returns.

    Args:
        plain: Nested settings.
        name_of: Function that takes the dotted name of a key and returns the key's new dotted name.
        prefix: Dotted name of the section that ``plain`` is, with a dot at the end; empty at the
            top.
    """
    result: dict[str, Any] = {}
    for key, value in plain.items():
        path = f"{prefix}{key}"
        name = name_of(path).removeprefix(prefix)
        if name in result:
            raise InputError(f"{path} is given under two names: keep only {prefix}{name}")
        result[name] = _renamed(value, name_of, f"{path}.") if isinstance(value, Mapping) else value
    return result


def _without_unhashed(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings without the keys that a signature does not hash.

    Left out are keys that only choose where a trial runs, and keys that a later version of the
    program added and that have their default value.

    Args:
        plain: Nested settings.
        prefix: Dotted name of the section that ``plain`` is, with a dot at the end; empty at the
            top.
    """
    result: dict[str, Any] = {}
    for key, value in plain.items():
        path = f"{prefix}{key}"
        if path in OPERATIONAL or (path in ADDED and value == ADDED[path]):
            continue
        nested = isinstance(value, Mapping)
        result[key] = _without_unhashed(value, f"{path}.") if nested else value
    return result
