"""Division of frames into spans (consecutive rows of whole videos), each predicted at once."""

import numpy as np
from jaxtyping import Int, Integer


def video_spans(
    video: Integer[np.ndarray, " N"], sizes: Int[np.ndarray, " V"], max_size: int
) -> list[slice]:
    """Divide the frames of videos into consecutive slices, each with all frames of some videos.

    The videos of a slice have a total size of at most ``max_size``. Exceptions are a slice of one
    larger video, and a slice of videos that cannot be divided because their frames are mixed.

    Args:
        video: Index of the video of each frame.
        sizes: Size of each video, in any unit.
        max_size: Maximum size of the videos of a slice, in the same unit.
    """
    rows = np.arange(len(video))
    last = np.zeros(len(sizes), np.int64)
    last[video] = rows
    ends = np.flatnonzero(np.maximum.accumulate(last[video]) == rows) + 1
    listed, first = np.unique(video, return_index=True)
    row_sizes = np.zeros(len(video) + 1, np.int64)
    row_sizes[first + 1] = sizes[listed]
    before = np.cumsum(row_sizes)
    spans: list[slice] = []
    start = done = 0
    for end in ends.tolist():
        if done > start and before[end] - before[start] > max_size:
            spans.append(slice(start, done))
            start = done
        done = end
    return [*spans, slice(start, done)] if done else []
