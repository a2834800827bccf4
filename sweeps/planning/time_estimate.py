"""Time of the batches of configs, from the timed batches of a few of them.

The seconds of a batch of other configs follow from those of the same encoder: per frame of a window
they are modelled as ``a + b * parameters * windows of the batch`` with ``a, b >= 0``.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from mtl.config import TrialConfig
from mtl.models.encoders import ENCODERS
from mtl.sequences.windows import WINDOWS_PER_FRAME
from mtl.training.batch_time import BatchTime
from mtl.training.inference import EVALUATION_LANES
from sweeps.planning.plan import Plan, SizedConfig

MOST_TIMED = 8
"""Largest number of configs of which a batch is timed."""
MOST_GIVEN = 4
"""Largest number of points of ``search.first`` among them, so that the others span the space."""


@dataclass(frozen=True)
class Work:
    """Batches of a trial, for one worker of its group.

    Attributes:
        training_windows: Windows of a training batch on this worker.
        prediction_windows: Windows of a prediction batch on this worker.
        training_steps: Training batches of an epoch.
        select_steps: Prediction batches after an epoch, of the videos on which choices are made.
        end_steps: Prediction batches of one model at the end of the trial, of all splits.
    """

    training_windows: int
    prediction_windows: int
    training_steps: int
    select_steps: int
    end_steps: int


@dataclass(frozen=True)
class TimedConfig:
    """Config with the time of its batches.

    Attributes:
        sized: The config and its number of parameters.
        work: Batches of a trial.
        time: Seconds and memory of the batches; None if timing them failed.
        failure: Reason of the failure in one line; empty without one.
    """

    sized: SizedConfig
    work: Work
    time: BatchTime | None
    failure: str = ""


def work_of(plan: Plan, config: TrialConfig) -> Work:
    """Return the number and size of the batches of a trial.

    Args:
        plan: The search file, checked against the dataset.
        config: The trial's config.
    """
    sequence, workers = config.sequence, plan.file.resources.workers_per_trial
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    for video, frames in plan.video_lengths(config).items():
        lengths[plan.parts[video]].append(-(-frames // sequence.frame_stride))
    window, train = sequence.window_frames, lengths["train"]
    carried = ENCODERS[config.encoder.name].carries_state
    # A batch has no more rows than there are videos, or windows if each is trained alone.
    lanes = min(config.optim.batch_videos, len(train) if carried else -(-sum(train) // window))
    at_once = max(
        len(lengths[part]) if carried else _prediction_windows(lengths[part], window)
        for part in ("select", "confirm", "test")
    )
    evaluated = max(1, min(EVALUATION_LANES, at_once))

    def steps(*parts: str) -> int:
        return sum(_prediction_steps(lengths[part], window, carried) for part in parts)

    return Work(
        training_windows=max(1, -(-lanes // workers)),
        prediction_windows=-(-evaluated // workers),
        training_steps=_training_steps(train, lanes, window, carried),
        select_steps=steps("select"),
        end_steps=steps("select", "confirm", "test"),
    )


def _training_steps(lengths: Sequence[int], lanes: int, window_frames: int, carried: bool) -> int:
    """Return the number of training batches of an epoch; without carried states it is rounded up.

    Args:
        lengths: Number of frames of each video.
        lanes: Windows of a batch.
        window_frames: Frames of a window.
        carried: True if a row of the batches holds whole videos one after another, because the
            encoder's state is carried; the row with the most frames then sets the number.
    """
    if not carried:
        return max(1, math.ceil(sum(lengths) / (lanes * window_frames)))
    return max(1, math.ceil(max(_loads(lengths, lanes), default=0) / window_frames))


def _prediction_steps(lengths: Sequence[int], window_frames: int, carried: bool) -> int:
    """Return the number of prediction batches of some videos; the windows of a frame overlap."""
    if carried:
        return math.ceil(max(_loads(lengths, EVALUATION_LANES), default=0) / window_frames)
    return math.ceil(_prediction_windows(lengths, window_frames) / EVALUATION_LANES)


def _prediction_windows(lengths: Sequence[int], window_frames: int) -> int:
    """Return the number of windows that predict some videos without carried states."""
    step = window_frames // WINDOWS_PER_FRAME
    return sum(1 + math.ceil(max(0, length - window_frames) / step) for length in lengths)


def _loads(lengths: Sequence[int], lanes: int) -> list[int]:
    """Return the number of frames of each row, where each video goes to the shortest row."""
    loads = [0] * lanes
    for length in sorted(lengths, reverse=True):
        loads[loads.index(min(loads))] += length
    return loads


def choose_configs(plan: Plan) -> list[SizedConfig]:
    """Return at most 8 configs that span the space; the choice depends on ``search.seed`` only.

    They are chosen in this order: points of ``search.first``, the config with the largest batch of
    each encoder, the smallest of all, the largest of each framework that is missing so far, and the
    smallest of each encoder. The smallest is returned first, so that a limit of time leaves out
    those that take longest.

    Args:
        plan: The search file, checked against the dataset.
    """
    ranked = sorted(plan.sampled, key=_batch_size)
    encoders = dict.fromkeys(sized.config.encoder.name for sized in reversed(ranked))
    by_encoder = {n: [s for s in ranked if s.config.encoder.name == n] for n in encoders}
    chosen = list({_shape(sized): sized for sized in plan.given}.values())[:MOST_GIVEN]
    chosen += [of[-1] for of in by_encoder.values()]
    chosen += ranked[:1]
    frameworks = {sized.config.framework.name for sized in chosen}
    others = {s.config.framework.name: s for s in ranked}
    chosen += [sized for name, sized in others.items() if name not in frameworks]
    chosen += [of[0] for of in by_encoder.values()]
    distinct = list({_kind(sized): sized for sized in chosen}.values())[:MOST_TIMED]
    return sorted(distinct, key=_batch_size)


def _batch_size(sized: SizedConfig) -> int:
    """Return parameters times frames of a training batch, roughly a batch's operations."""
    config = sized.config
    return sized.parameters * config.sequence.window_frames * config.optim.batch_videos


def _shape(sized: SizedConfig) -> tuple[str, str, int, int]:
    """Return what the completions of one point have in common, whatever their features."""
    config = sized.config
    hidden, layers = (config.encoder.parameters[key] for key in ("hidden", "layers"))
    return config.encoder.name, config.framework.name, hidden, layers


def _kind(sized: SizedConfig) -> tuple[str, str, int]:
    config = sized.config
    return config.encoder.name, config.framework.name, _batch_size(sized)


def batch_seconds(
    sized: SizedConfig, work: Work, known: Sequence[TimedConfig]
) -> tuple[float, float]:
    """Return the estimated seconds of a training batch and of a prediction batch of a config.

    Args:
        sized: The config and its number of parameters.
        work: Batches of its trial.
        known: Configs with the times of their batches, at least one.
    """
    name = sized.config.encoder.name
    alike = [each for each in known if each.sized.config.encoder.name == name] or known
    frames = [each.sized.config.sequence.window_frames for each in alike]
    times = [each.time for each in alike if each.time is not None]
    training = _line(
        [each.sized.parameters * each.work.training_windows for each in alike],
        [time.training_seconds / window for time, window in zip(times, frames, strict=True)],
        sized.parameters * work.training_windows,
    )
    prediction = _line(
        [each.sized.parameters * each.work.prediction_windows for each in alike],
        [time.prediction_seconds / window for time, window in zip(times, frames, strict=True)],
        sized.parameters * work.prediction_windows,
    )
    window = sized.config.sequence.window_frames
    return window * training, window * prediction


def _line(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Return the value at x of the line through points that neither starts below 0 nor falls.

    Args:
        xs: Positive coordinates of the points. If they are equal, the line is the points' mean.
        ys: Values of the points.
        x: Where the line is read.
    """
    if len(set(xs)) == 1:
        return statistics.fmean(ys)
    places, values = np.array(xs, float) / max(xs), np.maximum(ys, 1e-12)
    # Relative errors count, so that small models are not fitted by the large ones alone.
    start, slope = nnls(np.stack([1 / values, places / values], axis=1), np.ones(len(ys)))[0]
    return float(start + slope * x / max(xs))
