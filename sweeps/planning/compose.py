"""Composition of Hydra groups and overrides into a trial's typed config, and the config's hash."""

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

import sweeps
from mtl.config import TrialConfig, read_config
from mtl.errors import InputError
from mtl.renamed_keys import hashed_settings, present_path
from mtl.strict import did_you_mean

CONFIGS = Path(sweeps.__file__).parent / "configs"


@functools.cache
def group_options(group: str) -> tuple[str, ...] | None:
    """Return the options of a Hydra config group, such as gru for ``encoder``, or None.

    None means that there is no group of this name.

    Args:
        group: Name of the group.
    """
    folder = CONFIGS / group
    if group == "spaces" or not folder.is_dir():
        return None
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def compose(overrides: Sequence[str]) -> TrialConfig:
    """Compose ``configs/trial.yaml`` with Hydra overrides into a trial's checked config.

    Args:
        overrides: Overrides such as ``encoder=gru`` and ``encoder.layers=2``.

    Raises:
        InputError: If a key or option is unknown (the message names the nearest known one), or a
            value is out of range.
    """
    return read_config(compose_plain("trial", overrides))


def compose_plain(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Compose ``configs/<name>.yaml`` with Hydra overrides into nested dicts.

    Hydra composes each combination of group options once; values are then set in its result, so
    that composing a trial takes about a millisecond.

    Args:
        name: Name of the config file without its suffix.
        overrides: Overrides such as ``encoder=gru`` and ``encoder.layers=2``.

    Raises:
        InputError: If a key or option is unknown; the message names the nearest known one.
    """
    groups, values = [], []
    for override in overrides:
        path, value = _parsed(override)
        options = group_options(path) if path in _groups(name) else None
        if options is None:
            values.append((path, value))
        elif value in options:
            groups.append(f"{path}={value}")
        else:
            raise InputError(f"{path} = {value!r} is unknown{did_you_mean(str(value), options)}")
    plain: dict[str, Any] = json.loads(_composed(name, tuple(groups)))
    for path, value in values:
        _set(plain, path, value)
    return plain


@functools.cache
def _groups(name: str) -> frozenset[str]:
    """Return the names of the Hydra config groups in the defaults of ``configs/<name>.yaml``."""
    entries = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()).get("defaults", [])
    return frozenset(group for entry in entries if isinstance(entry, dict) for group in entry)


@functools.cache
def _composed(name: str, groups: tuple[str, ...]) -> str:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        config = hydra_compose(name, list(groups))
    # resolve=False: a trial's config holds no interpolation, and must not read the environment.
    return json.dumps(OmegaConf.to_container(config, resolve=False))


def _parsed(override: str) -> tuple[str, Any]:
    if "${" in override:
        raise InputError(f"{override!r} holds an interpolation: write the value itself")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"{override!r} is no override ({first}): write path=value") from None
    plain = parsed.type is OverrideType.CHANGE and parsed.key_or_group and not parsed.package
    if not plain or parsed.is_sweep_override():
        raise InputError(f"{override!r} is no plain override: write path=value")
    return present_path(parsed.key_or_group), _unquoted(parsed.value())


def _unquoted(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    return [_unquoted(item) for item in value] if isinstance(value, list) else value


def _set(plain: dict[str, Any], path: str, value: Any) -> None:
    *parents, key = path.split(".")
    node: Any = plain
    for depth, part in enumerate([*parents, key]):
        # A component's parameters are known to its class: read_config refuses what is not.
        parameter = depth == len(parents) and isinstance(node, dict) and "name" in node
        if not parameter and (not isinstance(node, dict) or part not in node):
            names = node if isinstance(node, dict) else []
            known = [".".join([*parents[:depth], name]) for name in names]
            raise InputError(f"{path} is no known key{did_you_mean(path, known)}")
        if depth < len(parents):
            if isinstance(node[part], str):  # a component by its name alone
                node[part] = {"name": node[part]}
            node = node[part]
    node[key] = value


def signature(config: TrialConfig, dataset_hash: str) -> str:
    """Return 16 hex digits, which are equal for two trials if and only if they train the same.

    The digits are a hash of the resolved config and the dataset's hash. Config keys that only
    choose where a trial runs are left out (``mtl.renamed_keys``).

    Args:
        config: The trial's config.
        dataset_hash: Hash of the dataset's content.
    """
    text = json.dumps([hashed_settings(config.plain()), dataset_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
