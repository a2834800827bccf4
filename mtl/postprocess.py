"""Smoothing of predictions over time: a moving average by frame number, within one video.

Shapes: ``N`` frames in any order, ``W`` columns, ``L`` label columns.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer

from mtl.metrics import task_score, task_sums
from mtl.tasks import Task

RADII_FRAMES = (0, 2, 5, 10, 20, 40, 80, 160, 320)
TIE = 1e-12  # scores closer than this differ by rounding only


def smooth(
    values: Float[np.ndarray, "N W"],
    video: Integer[np.ndarray, " N"],
    frame: Integer[np.ndarray, " N"],
    radius_frames: int,
) -> Float[np.ndarray, "N W"]:
    """Mean of each column over the given frames of the same video at most ``radius_frames`` away.

    The distance is one of frame numbers, not of rows: listed frames are irregular. Radius 0 gives
    the values back. A column is wholly NaN (and stays so) or holds no NaN.
    """
    if radius_frames == 0 or not len(values):
        return values.copy()
    # One axis for all videos, with gaps wider than the radius between them.
    span = int(frame.max()) - int(frame.min()) + 1 + radius_frames
    place = video.astype(np.int64) * span + frame
    order = np.argsort(place, kind="stable")
    place = place[order]
    first = np.searchsorted(place, place - radius_frames, side="left")
    last = np.searchsorted(place, place + radius_frames, side="right")
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values[order], axis=0, dtype=np.float64, out=sums[1:])
    smoothed = np.empty_like(values)
    smoothed[order] = (sums[last] - sums[first]) / (last - first)[:, None]
    return smoothed


def choose_radius(
    task: Task,
    outputs: Float[np.ndarray, "N W"],
    labels: Float[np.ndarray, "N L"],
    mask: Bool[np.ndarray, "N L"],
    video: Integer[np.ndarray, " N"],
    frame: Integer[np.ndarray, " N"],
    radii: Sequence[int] = RADII_FRAMES,
) -> int:
    """The radius, in frames, whose smoothed outputs score best on these frames.

    Equal scores go to the smaller radius; without labels it is the smallest. What is chosen here
    has seen these labels: give it the `select` frames only.
    """
    best_radius, best_score = min(radii), -np.inf
    for radius in sorted(radii):
        smoothed = smooth(outputs, video, frame, radius)
        score = task_score(task, task_sums(task, smoothed, labels, mask))
        if score is not None and score > best_score + TIE:
            best_radius, best_score = radius, score
    return best_radius
