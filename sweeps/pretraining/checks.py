"""Checks of arguments, folders and images before a pretraining starts."""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from mtl.errors import InputError
from mtl.features.face_crops import Images
from mtl.pretraining.augmentation import epoch_batches
from mtl.pretraining.config import SupervisedConfig
from mtl.tasks import TASKS
from sweeps.cli.pool_arguments import check_pool
from sweeps.pretraining.setup import InitialBackbone, PretrainingSetup


def check_arguments(arguments: argparse.Namespace) -> None:
    """Check the command line of ``pretrain.py``, as far as possible without reading files.

    Raises:
        InputError: If a value is out of range, or two options contradict each other.
    """
    check_pool(arguments)
    if arguments.gpus and arguments.gpus < 1 and arguments.workers != "1":
        raise InputError(
            f"--gpus {arguments.gpus:g} with --workers {arguments.workers}: NCCL lets no two "
            "workers share a GPU; give each a whole one"
        )
    if not 0 <= arguments.confirm < 1:
        raise InputError(f"--confirm {arguments.confirm:g} must be at least 0 and below 1")
    if min(arguments.seed, arguments.restarts) < 0:
        raise InputError(
            f"--seed {arguments.seed} and --restarts {arguments.restarts} must be at least 0"
        )
    given = [name for name in ("labels", "annotations") if getattr(arguments, name) is not None]
    if arguments.method == "mae" and given:
        raise InputError(f"--{given[0]} is for --method supervised: mae takes no labels")
    if arguments.subjects is not None and arguments.annotations is None:
        raise InputError("--subjects goes with --annotations: it divides the videos of its lists")
    if arguments.method == "supervised" and len(given) != 1:
        raise InputError("--method supervised needs either --labels CSV or --annotations DIR")


def check_output_folder(out: Path, address: str) -> None:
    """Check that the output folder is not inside the image folder.

    Otherwise the next pretraining would train on the pictures that this one writes.

    Args:
        out: Output folder.
        address: Folder of the images, local or ``s3://``.

    Raises:
        InputError: If the output folder is the image folder, or inside it.
    """
    images = Path(address.removeprefix("file://")).resolve()
    if images in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} lies in --images {address}: give a folder beside it")


def check_listed_images(labels: str, listed: Images, found: Images) -> None:
    """Check that the images listed in a CSV file exist; print the number of missing ones.

    Args:
        labels: Path of the CSV file.
        listed: Images listed in the CSV file.
        found: Images in the image folder.

    Raises:
        InputError: If none of the listed images is in the image folder.
    """
    exists = pc.is_in(listed.files, value_set=found.files).to_numpy(zero_copy_only=False)
    if not exists.any():
        raise InputError(
            f"--labels {labels}: none of its {len(listed):,} images is in --images {found.address} "
            f"(the first is {listed.file(0)}, there is {found.file(0)}): give the folder that its "
            "paths begin at"
        )
    if not exists.all():
        absent = np.flatnonzero(~exists)
        first = listed.file(int(absent[0]))
        print(f"{len(absent):,} images of {labels} are not in {found.address} (such as {first})")


def check_training_data(setup: PretrainingSetup) -> None:
    """Check that there are enough images for a batch, and labels of each trained task.

    Args:
        setup: Config, images and labels of the pretraining.

    Raises:
        InputError: If a task has no label to train on, or there are fewer images than a batch
            needs.
    """
    labels, config = setup.labels, setup.config
    if labels is not None and isinstance(config, SupervisedConfig):
        known = labels.mask[labels.train_rows].any(axis=0)
        for task in config.tasks:
            if not known[TASKS[task].labels].any():
                raise InputError(f"tasks: no image to train on has a label of {task}: leave it out")
    images = len(setup.images if labels is None else labels.train_rows)
    epoch_batches(images, config.training.batch_images, seed=0, epoch=1)


def check_workers(workers: int, setup: PretrainingSetup, start: InitialBackbone) -> None:
    """Check that a pretraining can run with a number of workers.

    Args:
        workers: Number of data-parallel workers, which share each batch.
        setup: Config, images and labels of the pretraining.
        start: Backbone to train; if it has batch norms, each worker needs at least 2 images.

    Raises:
        InputError: If a worker would get too few images of a batch.
    """
    batch = setup.config.training.batch_images
    least = 2 if start.has_batch_norm else 1
    if batch // workers < least:
        why = f": {start.name} has batch norms" if start.has_batch_norm else ""
        raise InputError(
            f"training.batch_images = {batch} is refused with {workers} workers: each needs "
            f"{least} at least{why}; raise it, or lower --workers"
        )
