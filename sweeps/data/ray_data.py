"""Settings of Ray Data, and conversion of Ray Data's errors to ``InputError``."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import ray
from ray.data import DataContext

from mtl.dataset import Dataset
from mtl.errors import InputError


def kill_leftover_actors() -> None:
    """Kill all named Ray actors of the cluster; Ray Data leaves such actors running.

    Each actor takes 1 % of a core and 90 MB until the cluster ends. Call this function only on a
    cluster that this process has started, since it also kills the actors of other programs.
    """
    for actor in ray.util.list_named_actors(all_namespaces=True):
        ray.kill(ray.get_actor(actor["name"], actor["namespace"]))


def with_absolute_address(dataset: Dataset) -> Dataset:
    """Return a dataset with its directory as an absolute path; an ``s3://`` address is kept.

    Processes of a Ray cluster may have another working directory than this process, so a relative
    path would fail there.
    """
    if "://" in dataset.address:
        return dataset
    return replace(dataset, address=str(Path(dataset.address).absolute()))


def set_up_ray_data() -> None:
    """Turn off Ray Data's progress bars and log, and its splitting of large blocks of rows.

    The programs print their own progress, and errors are raised as exceptions. Blocks are not
    split because each must hold whole videos.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = None


def unwrap_input_error(error: Exception) -> Exception:
    """Return the ``InputError`` that caused an error of Ray Data, else the error itself.

    The error of Ray Data holds the ``InputError`` only as text, so a new one with the same message
    is made.
    """
    name = re.escape(f"{InputError.__module__}.{InputError.__qualname__}")
    match = re.search(f"^{name}: (.+)$", str(error), re.MULTILINE)
    return InputError(match[1]) if match else error
