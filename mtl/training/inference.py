"""What a model says of listed frames: windows in, one output row for each frame out.

Shapes: N listed frames, B windows, T frames of a window, F features of all sets together.
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
"""Of all workers together."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class TrialData:
    """What a trial is trained and evaluated on.

    Attributes:
        tasks: The tasks to train: those of the config that have a training label.
        train: Training sequences.
        parts: The listed frames of ``select``, ``confirm`` and ``test``; training sees ``select``.
        mean: Of each feature of the joined sets; ``std`` beside it.
        prior: Output row for videos without features.
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
    """Outputs of a part's listed frames: values and probabilities, NaN for untrained tasks.

    They do not depend on the batch: a recurrent encoder walks each sequence from its start, the
    windows of one that does not carry a state follow from the sequence's own length. Each worker
    predicts its lanes and has the outputs of all.
    """
    outputs = np.full((len(part.rows), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    model.eval()
    if part.sequences:
        lengths = [len(sequence) for sequence in part.sequences]
        make = carried_schedule if model.carries_state else free_schedule
        schedule = workers.shard(
            make(lengths, EVALUATION_LANES, config.sequence.window_frames, None)
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
        stitch.sums, stitch.counts = (
            workers.all_reduce(stitch.sums),
            workers.all_reduce(stitch.counts),
        )
        has = part.source >= 0
        outputs[has] = stitch.rows()[part.source[has]]
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
    weights: Mapping[int, Weights],
    best_epochs: Mapping[str, int],
    workers: Workers = SINGLE_WORKER,
) -> dict[str, Float[np.ndarray, "N 22"]]:
    """Outputs of each part, every task from the weights of its own best epoch."""
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
    """Outputs of a part, the tasks in ``epochs`` each from its epoch's model; NaN for the others.

    Args:
        model_of: The model as it was after an epoch; asked once for each, in order.
        config: The trial.
        data: What it was trained on, as far as ``predict`` needs it.
        part: The frames.
        epochs: The epoch of each task that is wanted.
        device: Where the models are.
        workers: Those that predict together.
    """
    outputs = np.full((len(part.rows), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    for epoch in sorted(set(epochs.values())):
        rows = predict(model_of(epoch), config, data, part, device, workers)
        for task in (task for task, own in epochs.items() if own == epoch):
            outputs[:, TASKS[task].outputs] = rows[:, TASKS[task].outputs]
    return outputs


def place_model(
    config: TrialConfig, features: int, tasks: Sequence[str], device: torch.device
) -> Framework:
    """``build_model`` on a device, in the precision that the config asks for there."""
    dtype = parameter_dtype(choose_precision(config.training.precision, device))
    return build_model(config, features, tasks).to(device, dtype)
