"""Training loop of the workers of a pretraining, which send events to the driver process.

Batches, augmentation and noise depend on the seed and the epoch only, so they are the same for any
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
from sweeps.pretraining.events import (
    BrokenImages,
    Event,
    PretrainingEpoch,
    PretrainingFailed,
    TrainingStarted,
)
from sweeps.pretraining.reading import Reader, ReadSettings
from sweeps.pretraining.setup import PretrainingSetup, make_objective

PICTURE_FACES = 8
"""Number of faces in a picture of reconstructions."""
SCORING_BATCH_IMAGES = 64
"""Images in a worker's batch when the images held out to choose the best epoch are scored."""


def pretrain(event_log: ActorHandle[Any], setup: "list[ray.ObjectRef[PretrainingSetup]]") -> None:
    """Run the pretraining in one worker, up to the last epoch.

    Events, such as the end of an epoch or an error, are sent to an actor, from which the driver
    process takes them.

    Args:
        event_log: The actor, which holds the events and the newest checkpoint.
        setup: Object reference to the config, images and labels. It is in a list, because Ray would
            replace a bare reference by the object.
    """
    fetched: PretrainingSetup = ray.get(setup[0])
    torch.set_num_threads(fetched.threads)
    try:
        _pretrain(event_log, fetched, Workers.from_process_group())
    except TrainingError as error:
        # All workers raise this error at the same step, so all end without it.
        ray.get(event_log.put.remote(PretrainingFailed(str(error), mistake=False)))
    except InputError as error:
        # Other workers may wait for this one; Ray Train ends them because of the error.
        ray.get(event_log.put.remote(PretrainingFailed(str(error), mistake=True)))
        raise


def _pretrain(event_log: ActorHandle[Any], setup: PretrainingSetup, workers: Workers) -> None:
    config, training = setup.config, setup.config.training
    objective = make_objective(setup)
    checkpoint: Any = ray.get(event_log.checkpoint.remote())
    trainer = Pretrainer(objective, config, checkpoint, workers)
    reader = _make_reader(setup, objective)
    faces = picture_faces(setup, objective) if workers.rank == 0 else None
    rows = np.arange(len(setup.images)) if setup.labels is None else setup.labels.train_rows
    pending: list[Any] = []

    def send(event: Event) -> None:
        """Wait until the event before has arrived, then send this event without waiting for it."""
        ray.get(pending)
        pending[:] = [event_log.put.remote(event)]

    if workers.rank == 0:
        send(TrainingStarted(len(trainer.learning_curve)))
    for epoch in range(len(trainer.learning_curve) + 1, training.epochs + 1):
        order = rows[epoch_batches(len(rows), training.batch_images, training.seed, epoch)]
        steps = order[:, workers.rank :: workers.size]
        batches = reader.stream(list(steps), epoch)
        trainer.train_epoch(batches, len(steps))
        if not workers.all_reduce(np.array([steps.size - len(reader.broken)]))[0]:
            raise InputError(
                f"none of the {order.size:,} images of epoch {epoch} could be read (the first, "
                f"{reader.broken[0]}): check --images"
            )
        if setup.labels is not None and len(setup.labels.select_rows):
            trainer.add_scores(_score(objective, setup.labels, reader, workers, trainer.device))
        if reader.broken:
            send(BrokenImages(tuple(reader.broken)))
            reader.broken.clear()
        if workers.rank == 0:
            send(epoch_event(trainer, objective, faces))
    ray.get(pending)


def _make_reader(setup: PretrainingSetup, objective: Objective) -> Reader:
    backbone, config = objective.backbone, setup.config
    patches = objective.autoencoder.patches if isinstance(objective, Reconstruction) else 0
    settings = ReadSettings(
        backbone.size, backbone.resampling, config.augmentation, config.training.seed, patches
    )
    return Reader(setup.images, setup.labels, settings, setup.readers, setup.reader_cpus)


def epoch_event(
    trainer: Pretrainer, objective: Objective, faces: ImageBatch | None
) -> PretrainingEpoch:
    """Return the event about the last trained epoch.

    Checkpoint, weights and picture are included if they are due after this epoch.

    Args:
        trainer: Trainer of the worker.
        objective: Model and loss that are trained.
        faces: Faces that a masked autoencoder reconstructs for the picture; None for no picture.
    """
    config, training, epoch = trainer.config, trainer.config.training, len(trainer.learning_curve)
    last = epoch == training.epochs
    checkpoint_due = last or epoch % training.checkpoint_epochs == 0
    picture = None
    if faces and isinstance(config, MAEConfig) and (last or epoch % config.picture_epochs == 0):
        assert isinstance(objective, Reconstruction)
        device = trainer.device
        picture = objective.picture(faces["pixels"].to(device), faces["noise"].to(device))
    return PretrainingEpoch(
        trainer.learning_curve[-1],
        checkpoint=trainer.checkpoint() if checkpoint_due else None,
        weights=objective.weights() if trainer.should_keep_weights(checkpoint_due) else None,
        picture=picture,
    )


def picture_faces(setup: PretrainingSetup, objective: Objective) -> ImageBatch | None:
    """Choose the faces that are shown in each picture of reconstructions, and read them.

    Args:
        setup: Config, images and labels of the pretraining.
        objective: Model and loss that are trained.

    Returns:
        A batch of at most 8 faces without augmentation, the same for each epoch; None if the method
        is not a masked autoencoder, or none of the chosen faces can be read.
    """
    if not isinstance(objective, Reconstruction):
        return None
    seed = setup.config.training.seed
    chosen = np.random.default_rng(seed).permutation(len(setup.images))[:PICTURE_FACES]
    rows = [row for row in chosen.tolist() if _is_readable(setup.images, row)]
    if not rows:
        return None
    read = read_resized(setup.images, rows, objective.backbone.size, objective.backbone.resampling)
    noise = patch_noise(rows, objective.autoencoder.patches, seed, 0)
    return {"pixels": torch.from_numpy(read.pixels), "noise": torch.from_numpy(noise)}


def _is_readable(images: Images, row: int) -> bool:
    try:
        images.read(row)
    except BrokenImage:
        return False
    return True


def _score(
    objective: Objective,
    labels: LabelledImages,
    reader: Reader,
    workers: Workers,
    device: torch.device,
) -> dict[str, float | None]:
    """Return the score of each task on the images held out to choose the best epoch.

    All workers must call this function; each computes the outputs of its share of the images.

    Returns:
        The score by task; None for a task without a label on the held-out images.
    """
    assert isinstance(objective, Supervision)
    rows = labels.select_rows
    share = np.arange(len(rows))[workers.rank :: workers.size]
    outputs = np.zeros((len(rows), len(OUTPUT_COLUMNS)), np.float32)
    valid = np.zeros(len(rows), np.float32)
    steps = np.array_split(share, -(-len(share) // SCORING_BATCH_IMAGES)) if len(share) else []
    batches = reader.stream([rows[step] for step in steps], None)
    for step, batch in zip(steps, batches, strict=True):
        outputs[step] = objective.outputs(batch["pixels"].to(device)).nan_to_num().cpu().numpy()
        valid[step] = batch["valid"].numpy()
    outputs, known = workers.all_reduce(outputs), workers.all_reduce(valid) > 0
    scores: dict[str, float | None] = {}
    for name in objective.tasks:
        task = TASKS[name]
        mask = labels.mask[rows][:, task.labels] & known[:, None]
        values = labels.values[rows][:, task.labels]
        sums = metrics.task_sums(task, outputs[:, task.outputs], values, mask)
        scores[name] = metrics.task_score(task, sums)
    return scores
