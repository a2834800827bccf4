"""Set-up of Ray Data, and its errors as the user's."""

import logging
import re
from dataclasses import replace
from pathlib import Path

import ray
from ray.data import DataContext

from mtl.dataset import Dataset
from mtl.errors import InputError


def end_helpers() -> None:
    """End the actors that Ray Data leaves behind: each takes 1 % of a core and 90 MB for as long as
    its cluster lasts. For a cluster that is this sweep's own.
    """
    for actor in ray.util.list_named_actors(all_namespaces=True):
        ray.kill(ray.get_actor(actor["name"], actor["namespace"]))


def from_any_folder(dataset: Dataset) -> Dataset:
    """With an absolute path: the processes of a cluster that runs already work elsewhere."""
    if "://" in dataset.address:
        return dataset
    return replace(dataset, address=str(Path(dataset.address).absolute()))


def set_up_ray_data() -> None:
    """No progress bars and no logs (the sweep prints its own, errors are raised), and no block cut
    in two: a block is whole videos, whatever it weighs.
    """
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = None


def user_error(error: Exception) -> Exception:
    """The user's mistake in an error of Ray Data's, which keeps only its text; else the error."""
    name = re.escape(f"{InputError.__module__}.{InputError.__qualname__}")
    found = re.search(f"^{name}: (.+)$", str(error), re.MULTILINE)
    return InputError(found[1]) if found else error
