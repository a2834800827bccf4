"""Search files of earlier versions, as ``runs/<name>/space.yaml`` keeps them."""

from collections.abc import Mapping
from typing import Any

from mtl.config_keys import present_path
from mtl.errors import InputError


def in_present_form(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a search file's plain data with the keys of today.

    Renamed trial config paths get their present names. ``fusion.per_task``, which could only be
    true, is dropped.

    Args:
        raw: The file as read; its nodes need not be valid.
        source: The file's path, for messages.

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
        if (found := fusion.pop("per_task")) is not True:
            raise InputError(
                f"{source}: fusion.per_task = {found!r} is no longer a setting: each task has its "
                "own members, so remove the line"
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
