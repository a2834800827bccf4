"""Conversion of search files of earlier versions, which old run folders hold as ``space.yaml``."""

from collections.abc import Mapping
from typing import Any

from mtl.errors import InputError
from mtl.renamed_keys import present_path


def with_present_keys(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the content of a search file with the present names of renamed config keys.

    Config keys in ``fixed``, ``space`` and ``compare.by`` are renamed. ``fusion.per_task``, a
    former setting that could only be true, is removed.

    Args:
        raw: Content of the YAML file, not validated.
        source: Path of the file, for error messages.

    Raises:
        InputError: If ``fusion.per_task`` is not true.
    """
    result = dict(raw)
    if isinstance(raw.get("fixed"), dict):
        result["fixed"] = {present_path(path): value for path, value in raw["fixed"].items()}
    if isinstance(raw.get("space"), dict):
        result["space"] = _renamed(raw["space"])
    if isinstance(raw.get("compare"), dict) and isinstance(raw["compare"].get("by"), list):
        by = [
            present_path(path) if isinstance(path, str) else path for path in raw["compare"]["by"]
        ]
        result["compare"] = {**raw["compare"], "by": by}
    if isinstance(raw.get("fusion"), dict) and "per_task" in raw["fusion"]:
        fusion = dict(raw["fusion"])
        if (per_task := fusion.pop("per_task")) is not True:
            raise InputError(
                f"{source}: fusion.per_task = {per_task!r} is no longer a setting: each task has "
                "its own members, so remove the line"
            )
        result["fusion"] = fusion
    return result


def _renamed(space: Mapping[str, Any]) -> dict[str, Any]:
    renamed: dict[str, Any] = {}
    for path, node in space.items():
        if isinstance(node, dict) and isinstance(node.get("choice"), dict):
            branches = {
                option: _renamed(branch) if isinstance(branch, dict) else branch
                for option, branch in node["choice"].items()
            }
            node = {**node, "choice": branches}
        renamed[present_path(path) if isinstance(path, str) else path] = node
    return renamed
