"""What a pretraining is refused for, before it starts."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from mtl.errors import InputError
from mtl.features.face_crops import Images
from mtl.losses.balancing import BALANCINGS
from mtl.pretraining.augmentation import epoch_batches
from mtl.pretraining.config import SupervisedConfig
from mtl.tasks import TASKS
from sweeps.pretraining.setup import PretrainingSetup, Start


def check_apart(out: Path, address: str) -> None:
    """Else the pictures would be images of the next run."""
    images = Path(address.removeprefix("file://")).resolve()
    if images in (out.resolve(), *out.resolve().parents):
        raise InputError(f"--out {out} lies in --images {address}: give a folder beside it")


def check_there(labels: str, named: Images, found: Images) -> None:
    """Refuse a CSV none of whose images is there."""
    there = pc.is_in(named.files, value_set=found.files).to_numpy(zero_copy_only=False)
    if not there.any():
        raise InputError(
            f"--labels {labels}: none of its {len(named):,} images is in --images {found.address} "
            f"(the first is {named.file(0)}, there is {found.file(0)}): give the folder that its "
            "paths begin at"
        )
    if not there.all():
        absent = np.flatnonzero(~there)
        first = named.file(int(absent[0]))
        print(f"{len(absent):,} images of {labels} are not in {found.address} (such as {first})")


def check_enough(setup: PretrainingSetup) -> None:
    """Refuse what would end the training for certain."""
    labels, config = setup.labels, setup.config
    if labels is not None and isinstance(config, SupervisedConfig):
        known = labels.mask[labels.train_rows].any(axis=0)
        for task in config.tasks:
            if not known[TASKS[task].labels].any():
                raise InputError(f"tasks: no image to train on has a label of {task}: leave it out")
    number = len(setup.images if labels is None else labels.train_rows)
    epoch_batches(number, config.training.batch_images, seed=0, epoch=1)


def check_workers(workers: int, setup: PretrainingSetup, start: Start) -> None:
    """Refuse more than can train this together."""
    config, batch = setup.config, setup.config.training.batch_images
    least = 2 if start.batch_norm else 1
    if batch // workers < least:
        why = f": {start.backbone} has batch norms" if start.batch_norm else ""
        raise InputError(
            f"training.batch_images = {batch} is refused with {workers} workers: each needs "
            f"{least} at least{why}; raise it, or lower --workers"
        )
    if isinstance(config, SupervisedConfig) and workers > 1:
        name = config.balancing.name
        if BALANCINGS[name].single_worker_only:
            raise InputError(
                f"balancing = {name!r} needs each task's own gradient, which several workers do "
                f"not have: leave out --workers {workers}"
            )
