"""What the workers of a pretraining do: images by Ray Data, steps together, word to the driver.

A batch, its cuts and its noise follow from the seed and the epoch alone: they are the same for any
number of workers, and after a restart.
"""

from typing import Any

import numpy as np
import ray
import torch
from ray.actor import ActorHandle

from mtl.errors import InputError, TrainingError
from mtl.evaluation import metrics
from mtl.features.face_crops import BrokenImage, Images
from mtl.optimisation.distributed import Workers
from mtl.pretraining.augmentation import epoch_batches, patch_noise, read_resized
from mtl.pretraining.config import MAEConfig
from mtl.pretraining.image_labels import LabelledImages
from mtl.pretraining.objectives import ImageBatch, Objective, Reconstruction, Supervision
from mtl.pretraining.pretrainer import Pretrainer
from mtl.tasks import OUTPUT_COLUMNS, TASKS
from sweeps.pretraining.events import Began, Broken, Event, Failed, PretrainingEpoch
from sweeps.pretraining.reading import How, Reader
from sweeps.pretraining.setup import PretrainingSetup, make_objective

PICTURED = 8
"""Faces of a picture."""
EVALUATED = 64
"""Images of a batch that is not trained on, of each worker."""


def pretrain(record: ActorHandle[Any], setup: "list[ray.ObjectRef[PretrainingSetup]]") -> None:
    """What each worker does, from its start to the last epoch.

    Args:
        record: Hears of it.
        setup: A reference to it, in a list, so that it is fetched here.
    """
    given: PretrainingSetup = ray.get(setup[0])
    torch.set_num_threads(given.threads)
    try:
        _pretrain(record, given, Workers.from_process_group())
    except TrainingError as error:  # met by all at the same place: all go home
        ray.get(record.put.remote(Failed(str(error), mistake=False)))
    except InputError as error:  # the others may wait for this one: Train ends them
        ray.get(record.put.remote(Failed(str(error), mistake=True)))
        raise


def _pretrain(record: ActorHandle[Any], setup: PretrainingSetup, workers: Workers) -> None:
    config, training = setup.config, setup.config.training
    objective = make_objective(setup)
    checkpoint: Any = ray.get(record.checkpoint.remote())
    trainer = Pretrainer(objective, config, checkpoint, workers)
    reader = _reader(setup, objective)
    faces = _pictured(setup, objective) if workers.rank == 0 else None
    rows = np.arange(len(setup.images)) if setup.labels is None else setup.labels.train_rows
    on_its_way: list[Any] = []

    def tell(event: Event) -> None:
        """One at a time, in their order; the next epoch does not wait for it."""
        ray.get(on_its_way)
        on_its_way[:] = [record.put.remote(event)]

    if workers.rank == 0:
        tell(Began(len(trainer.learning_curve)))
    for epoch in range(len(trainer.learning_curve) + 1, training.epochs + 1):
        order = rows[epoch_batches(len(rows), training.batch_images, training.seed, epoch)]
        own = order[:, workers.rank :: workers.size]
        batches = reader.stream(list(own), epoch)
        trainer.train_epoch(batches, len(own))
        if not workers.all_reduce(np.array([own.size - len(reader.broken)]))[0]:
            raise InputError(
                f"none of the {order.size:,} images of epoch {epoch} could be read (the first, "
                f"{reader.broken[0]}): check --images"
            )
        if setup.labels is not None and len(setup.labels.select_rows):
            trainer.add_scores(_scores(objective, setup.labels, reader, workers, trainer.device))
        if reader.broken:
            tell(Broken(tuple(reader.broken)))
            reader.broken.clear()
        if workers.rank == 0:
            tell(_event(trainer, objective, faces))
    ray.get(on_its_way)


def _reader(setup: PretrainingSetup, objective: Objective) -> Reader:
    backbone, config = objective.backbone, setup.config
    patches = objective.autoencoder.patches if isinstance(objective, Reconstruction) else 0
    how = How(
        backbone.size, backbone.resampling, config.augmentation, config.training.seed, patches
    )
    return Reader(setup.images, setup.labels, how, setup.readers, setup.reader_cpus)


def _event(trainer: Pretrainer, objective: Objective, faces: ImageBatch | None) -> PretrainingEpoch:
    config, training, epoch = trainer.config, trainer.config.training, len(trainer.learning_curve)
    last = epoch == training.epochs
    due = last or epoch % training.checkpoint_epochs == 0
    picture = None
    if faces and isinstance(config, MAEConfig) and (last or epoch % config.picture_epochs == 0):
        assert isinstance(objective, Reconstruction)
        device = trainer.device
        picture = objective.picture(faces["pixels"].to(device), faces["noise"].to(device))
    return PretrainingEpoch(
        trainer.learning_curve[-1],
        checkpoint=trainer.checkpoint() if due else None,
        weights=objective.weights() if trainer.should_keep_weights(due) else None,
        picture=picture,
    )


def _pictured(setup: PretrainingSetup, objective: Objective) -> ImageBatch | None:
    """The faces of the pictures: the same few, whole, in each; None where there are none."""
    if not isinstance(objective, Reconstruction):
        return None
    seed = setup.config.training.seed
    chosen = np.random.default_rng(seed).permutation(len(setup.images))[:PICTURED]
    shown = [row for row in chosen.tolist() if _is_whole(setup.images, row)]
    if not shown:
        return None
    read = read_resized(setup.images, shown, objective.backbone.size, objective.backbone.resampling)
    noise = patch_noise(shown, objective.autoencoder.patches, seed, 0)
    return {"pixels": torch.from_numpy(read.pixels), "noise": torch.from_numpy(noise)}


def _is_whole(images: Images, row: int) -> bool:
    try:
        images.read(row)
    except BrokenImage:
        return False
    return True


def _scores(
    objective: Objective,
    labels: LabelledImages,
    reader: Reader,
    workers: Workers,
    device: torch.device,
) -> dict[str, float | None]:
    """Each task's score on the images that the epoch is chosen by."""
    assert isinstance(objective, Supervision)
    rows = labels.select_rows
    own = np.arange(len(rows))[workers.rank :: workers.size]
    outputs, valid = (
        np.zeros((len(rows), len(OUTPUT_COLUMNS)), np.float32),
        np.zeros(len(rows), np.float32),
    )
    parts = np.array_split(own, -(-len(own) // EVALUATED)) if len(own) else []
    batches = reader.stream([rows[part] for part in parts], None)
    for at, batch in zip(parts, batches, strict=True):
        outputs[at] = objective.outputs(batch["pixels"].to(device)).nan_to_num().cpu().numpy()
        valid[at] = batch["valid"].numpy()
    outputs, known = workers.all_reduce(outputs), workers.all_reduce(valid) > 0
    scores: dict[str, float | None] = {}
    for name in objective.tasks:
        task = TASKS[name]
        mask = labels.mask[rows][:, task.labels] & known[:, None]
        values = labels.values[rows][:, task.labels]
        sums = metrics.task_sums(task, outputs[:, task.outputs], values, mask)
        scores[name] = metrics.task_score(task, sums)
    return scores
