"""Settings of Ray Data, and its errors as the user's errors."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import ray
from ray.data import DataContext

from mtl.dataset import Dataset
from mtl.errors import InputError


def kill_leftover_actors() -> None:
    """Kill all named actors of the cluster, which Ray Data leaves running.

    Each takes 1 % of a core and 90 MB until the cluster ends. Only for a cluster that this process
    has started: on a shared one it would kill actors of others.
    """
    for actor in ray.util.list_named_actors(all_namespaces=True):
        ray.kill(ray.get_actor(actor["name"], actor["namespace"]))


def with_absolute_address(dataset: Dataset) -> Dataset:
    """Return the dataset with an absolute path as its address.

    The processes of a cluster that already runs have another working directory than this one.
    """
    if "://" in dataset.address:
        return dataset
    return replace(dataset, address=str(Path(dataset.address).absolute()))


def set_up_ray_data() -> None:
    """Turn off Ray Data's progress bars, its log, and the splitting of large blocks.

    The programs print their own progress; errors are raised. A block holds whole videos, however
    large it is.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = None


def unwrap_input_error(error: Exception) -> Exception:
    """Return the ``InputError`` that caused an error of Ray Data, else the error itself.

    Ray Data keeps the cause only as text in its own error.
    """
    name = re.escape(f"{InputError.__module__}.{InputError.__qualname__}")
    match = re.search(f"^{name}: (.+)$", str(error), re.MULTILINE)
    return InputError(match[1]) if match else error
