"""Time and memory of one training batch and one prediction batch of a config, on random data."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtl.config import TrialConfig
from mtl.models.encoders import ENCODERS
from mtl.optimisation.device import choose_device
from mtl.optimisation.memory import PeakMemory
from mtl.sequences.join import Part, Rows, VideoSequence
from mtl.sequences.windows import WINDOWS_PER_FRAME
from mtl.tasks import LABEL_COLUMNS, OUTPUT_COLUMNS, TASKS
from mtl.training.inference import TrialData, predict
from mtl.training.trainer import Trainer

MOST_BATCHES = 5
"""Largest number of batches that are timed; the times are their medians."""
LEARNING_RATE = 1e-6
"""Learning rate of the timed batches, which keeps the training of random data finite."""


@dataclass(frozen=True)
class BatchTime:
    """Seconds and memory that the batches of a config take.

    Attributes:
        training_seconds: Seconds of one training batch: making it, forward and backward pass, and
            the optimizer's step. On a CPU they are seconds of the processor, which other programs
            on the machine do not lengthen.
        prediction_seconds: Seconds of one prediction batch, measured likewise.
        memory_bytes: Largest memory in use, of the GPU or of this process beyond its size before.
    """

    training_seconds: float
    prediction_seconds: float
    memory_bytes: int


def time_batch(
    config: TrialConfig,
    tasks: Sequence[str],
    width: int,
    training_windows: int,
    prediction_windows: int,
    limit_seconds: float = 3.0,
) -> BatchTime:
    """Train and predict a few batches of random data; return the time and memory of one.

    The first batch, in which memory is allocated, is not counted.

    Args:
        config: Config of the trial.
        tasks: Tasks to train.
        width: Number of features of all feature sets together.
        training_windows: Windows of a training batch on this worker.
        prediction_windows: Windows of a prediction batch on this worker.
        limit_seconds: No further batch is timed after this time; at least one is timed.
    """
    started = time.monotonic()
    on_gpu = choose_device(config.training.device).type == "cuda"
    clock = time.perf_counter if on_gpu else time.thread_time
    memory = PeakMemory(choose_device(config.training.device))
    data = _random_data(config, tasks, width, training_windows, prediction_windows)
    trainer = Trainer(_for_timing(config), data)
    epochs = trainer.epochs()  # An epoch of this data is one batch, and its scoring another one.
    next(epochs)
    training: list[float] = []
    prediction: list[float] = []
    while not training or (
        len(training) < MOST_BATCHES and time.monotonic() - started < limit_seconds
    ):
        wall, busy = time.perf_counter(), clock()
        seconds = next(epochs).seconds
        training.append(seconds * (clock() - busy) / (time.perf_counter() - wall))
        busy = clock()
        predict(trainer.model, config, data, data.parts["select"], trainer.device)
        prediction.append(clock() - busy)
    return BatchTime(
        statistics.median(training), statistics.median(prediction), memory.peak_bytes()
    )


def _for_timing(config: TrialConfig) -> TrialConfig:
    """Return the config with a small learning rate, and more epochs than are timed."""
    optim = config.optim.model_copy(update={"lr": LEARNING_RATE})
    training = config.training.model_copy(update={"epochs": 1000})
    return config.model_copy(update={"optim": optim, "training": training})


def _random_data(
    config: TrialConfig, tasks: Sequence[str], width: int, training: int, prediction: int
) -> TrialData:
    """Return random data of one training batch and one prediction batch.

    Args:
        config: Config of the trial.
        tasks: Tasks to train.
        width: Number of features of all feature sets together.
        training: Windows of the training batch.
        prediction: Windows of the prediction batch.
    """
    frames = config.sequence.window_frames
    if ENCODERS[config.encoder.name].carries_state:
        # Each window of a batch is of another video.
        trained, predicted = [frames] * training, [frames] * prediction
    else:
        step = frames // WINDOWS_PER_FRAME
        # The first window is shorter, and so the last one is too.
        trained, predicted = [frames * max(1, training - 1)], [frames + step * (prediction - 1)]
    random = np.random.default_rng(0)
    select = tuple(_random_video(length, width, random) for length in predicted)
    rows = np.arange(sum(predicted))
    part = Part(
        rows,
        select,
        rows,
        np.concatenate([video.labels for video in select]),
        np.concatenate([video.mask for video in select]),
    )
    return TrialData(
        tuple(tasks),
        tuple(_random_video(length, width, random) for length in trained),
        {"select": part},
        np.zeros(width, np.float32),
        np.ones(width, np.float32),
        np.full(len(OUTPUT_COLUMNS), 1 / TASKS["expression"].width, np.float32),
    )


def _random_video(length: int, width: int, random: np.random.Generator) -> VideoSequence:
    features = random.standard_normal((length, width), np.float32)
    labels = random.integers(0, 2, (length, len(LABEL_COLUMNS))).astype(np.float32)
    for name in ("valence", "arousal"):
        labels[:, TASKS[name].labels] = random.uniform(-1, 1, (length, 1))
    expressions = random.integers(0, TASKS["expression"].width, (length, 1))
    labels[:, TASKS["expression"].labels] = expressions
    rows = Rows(features, slice(0, length))
    return VideoSequence("random", np.arange(length), (rows,), labels, np.ones_like(labels, bool))
