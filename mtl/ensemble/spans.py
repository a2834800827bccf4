"""The listed frames cut into spans of whole videos, each of which can be predicted by itself."""

import numpy as np
from jaxtyping import Int, Integer


def video_spans(
    video: Integer[np.ndarray, " N"], sizes: Int[np.ndarray, " V"], most: int
) -> list[slice]:
    """Rows [start, stop) after [start, stop), of videos that lie in one span with all their rows.

    A span is of at most ``most``, unless one video is larger, or several are whose rows are mixed.

    Args:
        video: Of each listed frame.
        sizes: What each video takes, in any unit.
        most: What a span may take.
    """
    rows = np.arange(len(video))
    last = np.zeros(len(sizes), np.int64)
    last[video] = rows
    ends = np.flatnonzero(np.maximum.accumulate(last[video]) == rows) + 1
    known, first = np.unique(video, return_index=True)
    weight = np.zeros(len(video) + 1, np.int64)
    weight[first + 1] = sizes[known]
    before = np.cumsum(weight)
    spans: list[slice] = []
    start = done = 0
    for end in ends.tolist():
        if done > start and before[end] - before[start] > most:
            spans.append(slice(start, done))
            start = done
        done = end
    return [*spans, slice(start, done)] if done else []
