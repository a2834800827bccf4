"""How sure a score is: the bootstrap over videos of pooled scores.

Frames of a video are alike, so videos are drawn, not frames; and CCC and F1 are no means over
videos, so each draw is scored on its pooled sums.

Shapes: N frames, V videos, R draws, S sums of a task.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

from mtl import metrics
from mtl.tasks import TASKS

DRAWS = 1000
SEED = 95
LEVEL = 0.95

Draws = Mapping[str, Float[np.ndarray, " R"]]


def bootstrap(
    outputs: Float[np.ndarray, "N 22"],
    labels: Float[np.ndarray, "N 15"],
    mask: Bool[np.ndarray, "N 15"],
    video: Int[np.ndarray, " N"],
) -> Draws:
    """Scores of ``DRAWS`` draws of the videos with replacement, under the names of
    ``metrics.scores``. The same videos are drawn for every model, so that differences are paired.
    """
    _, group = np.unique(video, return_inverse=True)
    videos = int(group.max()) + 1
    counts = draw_videos(videos)
    draws: dict[str, Float[np.ndarray, " R"]] = {}
    for name, task in TASKS.items():
        out, known = outputs[:, task.outputs], mask[:, task.labels]
        if known.any() and not np.isnan(out).all():
            sums = metrics.task_sums_by_group(
                task, out, labels[:, task.labels], known, group, videos
            )
            draws[name] = metrics.task_scores(task, counts @ sums)
    together = metrics.combine(draws)
    named = {f"{TASKS[name].score}_{name}": values for name, values in draws.items()}
    return named if together is None else {"p_labelled": np.asarray(together), **named}


def draw_videos(videos: int) -> Float[np.ndarray, "R V"]:
    """How often each video is in each draw; always the same for as many videos."""
    random = np.random.default_rng(SEED)
    return random.multinomial(videos, np.full(videos, 1 / videos), size=DRAWS).astype(float)


def interval(draws: Float[np.ndarray, " R"]) -> tuple[float, float]:
    """The central 95 % of draws (percentile interval, Efron 1979); too narrow below 20 videos."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(draws, [tail, 100 - tail])
    return float(low), float(high)
