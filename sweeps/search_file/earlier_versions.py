"""Conversion of search files of earlier versions, which old run folders hold as ``space.yaml``."""

import json
from collections.abc import Mapping
from typing import Any

from mtl.errors import InputError
from mtl.renamed_keys import present_path


def with_present_keys(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the content of a search file with the present names of renamed config keys.

    Config keys in ``fixed``, ``space``, ``compare.by`` and ``search.first`` are renamed.
    ``fusion.per_task``, a former setting that could only be true, is removed.

    Args:
        raw: Content of the YAML file, not validated.
        source: Path of the file, for error messages.

    Raises:
        InputError: If a config key is given under both of its names, or ``fusion.per_task`` is not
            true.
    """
    result = dict(raw)
    for section in ("fixed", "space"):
        if isinstance(raw.get(section), dict):
            result[section] = _renamed(raw[section], f"{source}: {section}")
    if isinstance(raw.get("compare"), dict) and isinstance(raw["compare"].get("by"), list):
        by = [
            present_path(path) if isinstance(path, str) else path for path in raw["compare"]["by"]
        ]
        result["compare"] = {**raw["compare"], "by": by}
    if isinstance(raw.get("search"), dict) and isinstance(raw["search"].get("first"), list):
        first = [
            _renamed(point, f"{source}: search.first, point {number}")
            if isinstance(point, dict)
            else point
            for number, point in enumerate(raw["search"]["first"], start=1)
        ]
        result["search"] = {**raw["search"], "first": first}
    if isinstance(raw.get("fusion"), dict) and "per_task" in raw["fusion"]:
        fusion = dict(raw["fusion"])
        if (per_task := fusion.pop("per_task")) is not True:
            found = json.dumps(per_task, default=str)
            raise InputError(
                f"{source}: fusion.per_task = {found} is no longer a setting, since each task has "
                "its own members: remove it"
            )
        result["fusion"] = fusion
    return result


def _renamed(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return ``fixed``, ``space`` or the parameters of an option with renamed config keys."""
    renamed: dict[str, Any] = {}
    for path, node in section.items():
        if isinstance(node, dict) and isinstance(node.get("choice"), dict):
            branches = {
                option: _renamed(branch, f"{where}.{path}.choice.{option}")
                if isinstance(branch, dict)
                else branch
                for option, branch in node["choice"].items()
            }
            node = {**node, "choice": branches}
        present = present_path(path) if isinstance(path, str) else path
        if present in renamed:
            raise InputError(f"{where}: {present} is given under two names: keep only {present}")
        renamed[present] = node
    return renamed
