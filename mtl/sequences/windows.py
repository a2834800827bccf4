"""Windows of sequences: their schedule, batches of windows, and stitching of window outputs.

A lane is one row of a batch. A window is the frames of one lane in one step; it consists of pieces,
each a range of frames of one sequence. A schedule lists the pieces of every window. It depends only
on the lengths of the sequences, the number of lanes, the window length and the random generator, so
W workers, of which each takes every W-th lane, train on the same global batches as one worker. A
piece of length 0 is a placeholder; placeholders come after the other pieces of a lane, and idle
lanes, which have only placeholders, come after the other lanes.

Shapes: S steps, B lanes, A lanes that are not idle, P pieces, T frames of a window, F features of
all feature sets together, N frames of all sequences.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtl.sequences.join import VideoSequence
from mtl.tasks import LABEL_COLUMNS, OUTPUT_COLUMNS

Schedule = Int[np.ndarray, "S B P 3"]
"""Windows of an epoch: sequence index, first frame and length of each piece, (S, B, P, 3).

A piece is a range of frames of one sequence. The axes are the S steps, the B lanes (rows of a
batch), and the P pieces of the window of one lane in one step.
"""
Piece = tuple[int, int, int]
"""Sequence index, first frame and length of one piece (range of frames of one sequence)."""
WINDOWS_PER_FRAME = 2
"""Number of windows that contain a frame in prediction, except near the ends of a sequence.

Windows for prediction start every ``window_frames // WINDOWS_PER_FRAME`` frames; with 2,
consecutive windows overlap by half.
"""


def carried_schedule(
    lengths: Sequence[int], lanes: int, window_frames: int, random: np.random.Generator | None
) -> Schedule:
    """Schedule windows for an encoder that carries its recurrent state from window to window.

    Each lane (row of a batch) processes whole sequences, one after another. A window may hold the
    end of one sequence and the start of the next, so only the last window of a lane is padded.
    Sequences are assigned, longest first, to the lane with the fewest frames.

    Args:
        lengths: Number of frames of each sequence.
        lanes: Largest number of lanes of a batch.
        window_frames: Frames of a window.
        random: Generator that shuffles the sequences of each lane; None keeps them longest first.

    Returns:
        Sequence index, first frame and length of each piece (range of frames of one sequence),
        (steps, lanes, pieces of a window, 3).
    """
    queues: list[list[int]] = [[] for _ in range(min(lanes, len(lengths)))]
    load = np.zeros(len(queues), int)
    order = random.permutation(len(lengths)) if random else np.arange(len(lengths))
    for sequence in sorted(order, key=lambda i: -lengths[i]):
        lane = int(load.argmin())
        queues[lane].append(int(sequence))
        load[lane] += lengths[sequence]
    if random:
        for queue in queues:
            random.shuffle(queue)
    queues = [queues[lane] for lane in np.argsort(-load, kind="stable")]
    return _stacked([_divide_queue(queue, lengths, window_frames) for queue in queues])


def _divide_queue(
    queue: Sequence[int], lengths: Sequence[int], window_frames: int
) -> list[list[Piece]]:
    """Divide the sequences of one lane (row of a batch) into windows.

    All windows but the last are full: a window may hold the end of one sequence and the start of
    the next.

    Args:
        queue: Indices of the sequences, in order.
        lengths: Number of frames of every sequence.
        window_frames: Frames of a window.

    Returns:
        For each window in order the list of its pieces: (sequence index, first frame, length).
    """
    windows: list[list[Piece]] = []
    room = 0
    for sequence in queue:
        start = 0
        while start < lengths[sequence]:
            if not room:
                windows.append([])
                room = window_frames
            taken = min(room, lengths[sequence] - start)
            windows[-1].append((sequence, start, taken))
            start, room = start + taken, room - taken
    return windows


def free_schedule(
    lengths: Sequence[int], lanes: int, window_frames: int, random: np.random.Generator | None
) -> Schedule:
    """Schedule windows, in any order, for an encoder that carries no state between windows.

    For training (with ``random``) each sequence is divided into adjacent windows, so each frame is
    used once; the first window has a random length. Each step holds windows of similar length, as
    many as fit into ``lanes * window_frames`` frames, so there is little padding; the steps are
    shuffled. For prediction (without ``random``) windows overlap, so most frames are predicted with
    context on both sides; ``Stitch`` averages the predictions of a frame.

    Args:
        lengths: Number of frames of each sequence.
        lanes: Largest number of lanes of a batch of full windows.
        window_frames: Largest number of frames of a window.
        random: Generator for training windows; None for prediction windows.

    Returns:
        Sequence index, first frame and length of each window, (steps, lanes, 1, 3). A lane is one
        row of a batch.
    """
    windows: list[Piece] = []
    for sequence, length in enumerate(lengths):
        if random:
            phase = int(random.integers(1, min(window_frames, length) + 1))
            windows += [(sequence, 0, phase), *_cut(sequence, length, window_frames, phase)]
        else:
            last = max(0, length - window_frames)
            starts = sorted({*range(0, last, window_frames // WINDOWS_PER_FRAME), last})
            windows += [(sequence, start, min(window_frames, length)) for start in starts]
    if random is None:
        by_lane = [windows[lane::lanes] for lane in range(min(lanes, len(windows)))]
        return _stacked([[[window] for window in lane] for lane in by_lane])
    shuffled = [windows[i] for i in random.permutation(len(windows))]
    steps: list[list[list[Piece]]] = [[]]
    for window in sorted(shuffled, key=lambda window: window[2]):
        if (len(steps[-1]) + 1) * window[2] > lanes * window_frames:
            steps.append([])
        steps[-1].append([window])
    random.shuffle(steps)
    return _stacked(steps).swapaxes(0, 1)


def _cut(sequence: int, length: int, window_frames: int, start: int) -> list[Piece]:
    """Divide the frames of one sequence, from a given frame to the end, into adjacent windows.

    Args:
        sequence: Index of the sequence.
        length: Number of frames of the sequence.
        window_frames: Largest number of frames of a window.
        start: First frame of the first window.

    Returns:
        Sequence index, first frame and length of each window.
    """
    return [
        (sequence, first, min(window_frames, length - first))
        for first in range(start, length, window_frames)
    ]


def _stacked(lanes: Sequence[Sequence[Sequence[Piece]]]) -> Schedule:
    """Stack windows into one array, with pieces of length 0 where there is no piece.

    A piece is the sequence index, first frame and length of a range of frames of one sequence.

    Args:
        lanes: For each lane (row of a batch) a list of windows, one for each step; a window is a
            list of pieces.

    Returns:
        Array of shape (steps, lanes, pieces of a window, 3). If ``lanes`` is instead a list of
        steps, each a list of the windows of the lanes, the shape is (lanes, steps, pieces of a
        window, 3).
    """
    pieces_per_window = max(len(window) for windows in lanes for window in windows)
    schedule = np.zeros((max(map(len, lanes)), len(lanes), pieces_per_window, 3), int)
    for lane, windows in enumerate(lanes):
        for step, pieces in enumerate(windows):
            schedule[step, lane, : len(pieces)] = pieces
    return schedule


@dataclass(frozen=True)
class WindowBatch:
    """Batch of the windows of one training or prediction step: B windows of T frames.

    Attributes:
        x: Z-scored features, (B, T, F) with F features per frame; 0 where padded.
        valid: Valid mask, (B, T): True for a frame, False for padding.
        labels: Labels of each frame in the columns ``LABEL_COLUMNS`` (valence, arousal, expression
            and 12 action units), (B, T, 15); 0 where missing.
        mask: True where a label is present, (B, T, 15).
        sequence_starts: True where a sequence starts, (B, T); the recurrent state is reset there.
            This tensor stays on the CPU, because the encoder reads it to split the window.
    """

    x: Float[Tensor, "B T F"]
    valid: Bool[Tensor, "B T"]
    labels: Float[Tensor, "B T 15"]
    mask: Bool[Tensor, "B T 15"]
    sequence_starts: Bool[Tensor, "B T"]


class Batches:
    """Builder of batches: concatenates the feature sets of each frame and z-scores the features.

    Args:
        sequences: Video sequences; windows refer to them by index.
        mean: Mean of each feature, (F,).
        std: Standard deviation of each feature, (F,).
        device: Device of the batches.
        dtype: Type of the features and labels in the batches.
    """

    def __init__(
        self,
        sequences: Sequence[VideoSequence],
        mean: Float[np.ndarray, " F"],
        std: Float[np.ndarray, " F"],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.sequences = sequences
        self.mean = torch.from_numpy(np.array(mean, np.float32)).to(device, dtype)
        self.inverse_std = torch.from_numpy((1 / np.asarray(std)).astype(np.float32)).to(
            device, dtype
        )
        self.device, self.dtype = device, dtype
        self.stored_dtype = np.result_type(*{r.window(0, 1).dtype for r in sequences[0].features})

    def __call__(self, schedule: Schedule) -> Iterator[WindowBatch]:
        """Yield the batch of each step of a schedule.

        Args:
            schedule: Sequence index, first frame and length of each piece (range of frames of one
                sequence), (steps, lanes, pieces of a window, 3). A lane is one row of a batch.
        """
        return (self.cut(step) for step in schedule)

    def cut(self, step: Int[np.ndarray, "B P 3"]) -> WindowBatch:
        """Return the batch of one step of a schedule, without lanes (rows) that have no frames.

        Args:
            step: Sequence index, first frame and length of each piece (range of frames of one
                sequence), (lanes, pieces of a window, 3). If all lengths are 0, the batch is one
                frame of padding.
        """
        lengths = step[:, :, 2].sum(axis=1)
        lanes, frames = max(1, int(np.count_nonzero(lengths))), max(1, int(lengths.max()))
        step, lengths = step[:lanes], lengths[:lanes]
        x = np.zeros((lanes, frames, len(self.mean)), self.stored_dtype)
        labels = np.zeros((lanes, frames, len(LABEL_COLUMNS)), np.float32)
        mask = np.zeros(labels.shape, bool)
        sequence_starts = np.zeros((lanes, frames), bool)
        for lane, pieces in enumerate(step.tolist()):
            position = 0
            for index, start, length in pieces:
                if length:
                    sequence, stop = self.sequences[index], position + length
                    sets = [rows.window(start, length) for rows in sequence.features]
                    np.concatenate(sets, axis=1, out=x[lane, position:stop])
                    labels[lane, position:stop] = sequence.labels[start : start + length]
                    mask[lane, position:stop] = sequence.mask[start : start + length]
                    sequence_starts[lane, position] = start == 0
                    position = stop
        valid = torch.from_numpy(np.arange(frames) < lengths[:, None]).to(self.device)
        features = torch.from_numpy(x).to(self.device, non_blocking=True).to(self.dtype)
        features = features.sub_(self.mean).mul_(self.inverse_std)
        if lengths.min() < frames:
            features *= valid[:, :, None]
        return WindowBatch(
            features,
            valid,
            torch.from_numpy(labels).to(self.device, self.dtype, non_blocking=True),
            torch.from_numpy(mask).to(self.device, non_blocking=True),
            torch.from_numpy(sequence_starts),
        )


class Stitch:
    """Accumulator of window outputs: averages a frame's outputs over all windows with the frame.

    Args:
        lengths: Number of frames of each sequence.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.sums = np.zeros((self.starts[-1], len(OUTPUT_COLUMNS)), np.float32)
        self.counts = np.zeros(self.starts[-1], np.float32)

    def add(self, step: Int[np.ndarray, "B P 3"], outputs: Float[np.ndarray, "A T 22"]) -> None:
        """Add the outputs of the windows of one step.

        Args:
            step: Sequence index, first frame and length of each piece (range of frames of one
                sequence), (lanes, pieces of a window, 3). A lane is one row of a batch.
            outputs: Outputs of the first A lanes, which have frames, (A, T, 22).
        """
        for pieces, rows in zip(step.tolist(), outputs, strict=False):
            position = 0
            for sequence, start, length in pieces:
                first = self.starts[sequence] + start
                self.sums[first : first + length] += rows[position : position + length]
                self.counts[first : first + length] += 1
                position += length

    def rows(self) -> Float[np.ndarray, "N 22"]:
        """Return the mean outputs of every frame, sequence after sequence, (frames, 22)."""
        return self.sums / self.counts[:, None]
