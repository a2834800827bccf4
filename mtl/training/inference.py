"""Inference: predictions of a trained model for the frames that the annotation files list.

Shapes: N listed frames, B windows, T frames of a window, F features of all feature sets together,
22 output columns as in ``mtl.tasks``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mtl.build_model import build_model
from mtl.config import TrialConfig
from mtl.models.frameworks import Framework, States
from mtl.optimisation.device import autocast, choose_device, choose_precision, parameter_dtype
from mtl.optimisation.distributed import SINGLE_WORKER, Workers
from mtl.predictions.activation import activate
from mtl.sequences.join import Part, VideoSequence
from mtl.sequences.windows import Batches, Stitch, WindowBatch, carried_schedule, free_schedule
from mtl.tasks import OUTPUT_COLUMNS, TASKS

EVALUATION_LANES = 16
"""Number of windows in a batch at prediction, for all DDP workers together."""

ModelWeights = dict[str, Tensor]
"""State dict of a trial's model, on the CPU."""


@dataclass(frozen=True)
class TrialData:
    """Data that a trial is trained and evaluated on.

    Attributes:
        tasks: Tasks to train: the config's tasks that have a label in the training sequences.
        train: Training sequences, each with the features and labels of the frames of one video.
        parts: Frames to predict (those named in the annotation files) of each split: ``select``
            (validation videos on which choices are made), ``confirm`` (validation videos held back
            for the final scores) and ``test``. Training uses ``select`` only.
        mean: Mean of each feature over the training frames, feature sets joined.
        std: Standard deviation of each feature over the training frames.
        prior: Outputs for frames of a video without features: the mean of the training labels.
    """

    tasks: tuple[str, ...]
    train: tuple[VideoSequence, ...]
    parts: Mapping[str, Part]
    mean: Float[np.ndarray, " F"]
    std: Float[np.ndarray, " F"]
    prior: Float[np.ndarray, "22"]


@torch.inference_mode()
def predict(
    model: Framework,
    config: TrialConfig,
    data: TrialData,
    part: Part,
    device: torch.device,
    workers: Workers = SINGLE_WORKER,
) -> Float[np.ndarray, "N 22"]:
    """Predict the listed frames (frames named in the annotation files) of some videos.

    Outputs of a frame depend on its own sequence only, not on the batch: recurrent encoders start
    each sequence with a fresh state, and the windows of other encoders follow from the length of
    the sequence.

    Args:
        model: Model of the trial, on ``device``; it is set to evaluation mode.
        config: Config of the trial.
        data: Tasks, feature statistics, and outputs for videos without features, of the trial.
        part: Listed frames to predict, and the feature sequences of their videos.
        device: Device of the model.
        workers: DDP workers that each predict a share of the windows; all return all outputs.

    Returns:
        Outputs of each listed frame, shape (frames, 22): values of valence and arousal and
        probabilities of the other tasks, in the order of ``OUTPUT_COLUMNS``; NaN for tasks that are
        not trained.
    """
    outputs = np.full((len(part.rows), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    model.eval()
    if part.sequences:
        lengths = [len(sequence) for sequence in part.sequences]
        make_schedule = carried_schedule if model.carries_state else free_schedule
        schedule = workers.shard(
            make_schedule(lengths, EVALUATION_LANES, config.sequence.window_frames, None)
        )
        stitch = Stitch(lengths)
        states: States = {}
        precision = choose_precision(config.training.precision, device)
        dtype = parameter_dtype(precision)
        batches = Batches(part.sequences, data.mean, data.std, device, dtype)
        for windows, batch in zip(schedule, batches(schedule), strict=True):
            with autocast(device, precision):
                raw, states = model(batch.x, batch.valid, states, None, batch.sequence_starts)
            stitch.add(windows, _output_rows(raw, batch))
        stitch.sums = workers.all_reduce(stitch.sums)
        stitch.counts = workers.all_reduce(stitch.counts)
        has_features = part.source >= 0
        outputs[has_features] = stitch.rows()[part.source[has_features]]
    outputs[part.source < 0] = data.prior
    for task in TASKS.values():
        if task.name not in data.tasks:
            outputs[:, task.outputs] = np.nan
    return outputs


def _output_rows(raw: Mapping[str, Tensor], batch: WindowBatch) -> Float[np.ndarray, "B T 22"]:
    rows = np.zeros((*batch.valid.shape, len(OUTPUT_COLUMNS)), np.float32)
    for name, values in raw.items():
        rows[:, :, TASKS[name].outputs] = activate(name, values.float()).cpu().numpy()
    return rows


def predict_best(
    config: TrialConfig,
    data: TrialData,
    weights: Mapping[int, ModelWeights],
    best_epochs: Mapping[str, int],
    workers: Workers = SINGLE_WORKER,
) -> dict[str, Float[np.ndarray, "N 22"]]:
    """Predict every split (select, confirm, test), each task with the weights of its best epoch.

    Args:
        config: Config of the trial.
        data: Data of the trial.
        weights: State dict of the model after each epoch that is needed, by epoch.
        best_epochs: Best epoch of each task, by the task's name.
        workers: DDP workers that predict together.

    Returns:
        Outputs of the frames of each split, shape (frames, 22), by the split's name; NaN for tasks
        that are not trained.
    """
    device = choose_device(config.training.device)
    model = place_model(config, len(data.mean), data.tasks, device)

    def model_of(epoch: int) -> Framework:
        model.load_state_dict(weights[epoch])
        return model

    return {
        name: predict_tasks(model_of, config, data, part, best_epochs, device, workers)
        for name, part in data.parts.items()
    }


def predict_tasks(
    model_of: Callable[[int], Framework],
    config: TrialConfig,
    data: TrialData,
    part: Part,
    epochs: Mapping[str, int],
    device: torch.device,
    workers: Workers = SINGLE_WORKER,
) -> Float[np.ndarray, "N 22"]:
    """Predict frames of videos, each task with the model as it was after a chosen epoch.

    Args:
        model_of: Function that returns the model as it was after an epoch; called once per epoch,
            in ascending order.
        config: Config of the trial.
        data: Tasks, feature statistics, and outputs for videos without features, of the trial.
        part: Frames to predict, and the feature sequences of their videos.
        epochs: Chosen epoch of each task to predict, by the task's name.
        device: Device of the models.
        workers: DDP workers that predict together.

    Returns:
        Outputs of the frames, shape (frames, 22); NaN for tasks that are not in ``epochs``.
    """
    outputs = np.full((len(part.rows), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    for epoch in sorted(set(epochs.values())):
        rows = predict(model_of(epoch), config, data, part, device, workers)
        for task in (task for task, best in epochs.items() if best == epoch):
            outputs[:, TASKS[task].outputs] = rows[:, TASKS[task].outputs]
    return outputs


def place_model(
    config: TrialConfig, features: int, tasks: Sequence[str], device: torch.device
) -> Framework:
    """Build a trial's model on a device, with parameters in the precision of the config.

    Args:
        config: Config of the trial.
        features: Number of features of all feature sets together.
        tasks: Tasks that get a head.
        device: Device of the model.
    """
    dtype = parameter_dtype(choose_precision(config.training.precision, device))
    return build_model(config, features, tasks).to(device, dtype)
