"""Windows of sequences: scheduled, cut into batches, stitched together again.

A schedule says for each step and lane which frames of which sequences come next, piece after piece.
It follows from the lengths, the number of lanes, the seed and the epoch alone, so that any number
of workers, each taking every W-th lane, trains on the same global batches. A piece of length 0 is
none; such pieces, and lanes without any other, come last.

Shapes: S steps, B lanes, P pieces, T frames of a window, F features of all sets together.
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
"""(sequence, start, length) of each piece of each lane's window, for each step."""
Piece = tuple[int, int, int]


def carried_schedule(
    lengths: Sequence[int], lanes: int, window_frames: int, random: np.random.Generator | None
) -> Schedule:
    """For an encoder that carries its state: each lane walks whole sequences, one after the other.

    A window may hold the end of one and the beginning of the next, so that only a lane's own end is
    padding. Sequences go, longest first, to the lane with the least to do; ``random`` then shuffles
    them within their lane (None: the order stays).
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
    return _stacked([_walk(queue, lengths, window_frames) for queue in queues])


def _walk(queue: Sequence[int], lengths: Sequence[int], window_frames: int) -> list[list[Piece]]:
    """The windows of sequences that follow each other, full but for the last."""
    windows: list[list[Piece]] = []
    room = 0
    for sequence in queue:
        at = 0
        while at < lengths[sequence]:
            if not room:
                windows.append([])
                room = window_frames
            taken = min(room, lengths[sequence] - at)
            windows[-1].append((sequence, at, taken))
            at, room = at + taken, room - taken
    return windows


def free_schedule(
    lengths: Sequence[int], lanes: int, window_frames: int, random: np.random.Generator | None
) -> Schedule:
    """For an encoder without memory: windows in any order.

    With ``random``: windows side by side from a random phase, those of a length together, as many a
    step as fill ``lanes`` whole windows, so that little is padding and each frame weighs the same;
    the steps are shuffled. Without: windows that overlap by half, so that each frame is seen with
    what is around it; their predictions are averaged.
    """
    windows: list[Piece] = []
    for sequence, length in enumerate(lengths):
        if random:
            phase = int(random.integers(1, min(window_frames, length) + 1))
            windows += [(sequence, 0, phase), *_cut(sequence, length, window_frames, phase)]
        else:
            last = max(0, length - window_frames)
            starts = sorted({*range(0, last, window_frames // 2), last})
            windows += [(sequence, start, min(window_frames, length)) for start in starts]
    if random is None:
        side_by_side = [windows[lane::lanes] for lane in range(min(lanes, len(windows)))]
        return _stacked([[[window] for window in lane] for lane in side_by_side])
    shuffled = [windows[i] for i in random.permutation(len(windows))]
    steps: list[list[list[Piece]]] = [[]]
    for window in sorted(shuffled, key=lambda window: window[2]):
        if (len(steps[-1]) + 1) * window[2] > lanes * window_frames:
            steps.append([])
        steps[-1].append([window])
    random.shuffle(steps)
    return _stacked(steps).swapaxes(0, 1)


def _cut(sequence: int, length: int, window_frames: int, start: int) -> list[Piece]:
    return [
        (sequence, at, min(window_frames, length - at))
        for at in range(start, length, window_frames)
    ]


def _stacked(lanes: Sequence[Sequence[Sequence[Piece]]]) -> Schedule:
    """Of the lanes' windows, or, its first two axes swapped, of the steps'."""
    most = max(len(window) for windows in lanes for window in windows)
    schedule = np.zeros((max(map(len, lanes)), len(lanes), most, 3), int)
    for lane, windows in enumerate(lanes):
        for step, pieces in enumerate(windows):
            schedule[step, lane, : len(pieces)] = pieces
    return schedule


@dataclass(frozen=True)
class WindowBatch:
    """One step: features z-scored, 0 where padded.

    Attributes:
        x: Features.
        valid: Which frames are no padding.
        labels: With ``mask``: what is known of each frame.
        sequence_starts: True where a sequence starts; the recurrent state is reset there. It stays
            on the CPU, where the window is cut at them.
    """

    x: Float[Tensor, "B T F"]
    valid: Bool[Tensor, "B T"]
    labels: Float[Tensor, "B T 15"]
    mask: Bool[Tensor, "B T 15"]
    sequence_starts: Bool[Tensor, "B T"]


class Batches:
    """Cuts scheduled windows out of sequences, joins their feature sets and z-scores them."""

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
        self.scale = torch.from_numpy((1 / np.asarray(std)).astype(np.float32)).to(device, dtype)
        self.device, self.dtype = device, dtype
        self.stored = np.result_type(*{r.window(0, 1).dtype for r in sequences[0].features})

    def __call__(self, schedule: Schedule) -> Iterator[WindowBatch]:
        """The batches of a schedule."""
        return (self.cut(step) for step in schedule)

    def cut(self, step: Int[np.ndarray, "B P 3"]) -> WindowBatch:
        """The batch of one step of a schedule, without idle lanes; one frame of padding where all
        are idle.
        """
        lengths = step[:, :, 2].sum(axis=1)
        lanes, frames = max(1, int(np.count_nonzero(lengths))), max(1, int(lengths.max()))
        step, lengths = step[:lanes], lengths[:lanes]
        x = np.zeros((lanes, frames, len(self.mean)), self.stored)
        labels = np.zeros((lanes, frames, len(LABEL_COLUMNS)), np.float32)
        mask = np.zeros(labels.shape, bool)
        sequence_starts = np.zeros((lanes, frames), bool)
        for lane, pieces in enumerate(step.tolist()):
            here = 0
            for index, start, length in pieces:
                if length:
                    sequence, stop = self.sequences[index], here + length
                    sets = [rows.window(start, length) for rows in sequence.features]
                    np.concatenate(sets, axis=1, out=x[lane, here:stop])
                    labels[lane, here:stop] = sequence.labels[start : start + length]
                    mask[lane, here:stop] = sequence.mask[start : start + length]
                    sequence_starts[lane, here] = start == 0
                    here = stop
        valid = torch.from_numpy(np.arange(frames) < lengths[:, None]).to(self.device)
        features = torch.from_numpy(x).to(self.device, non_blocking=True).to(self.dtype)
        features = features.sub_(self.mean).mul_(self.scale)
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
    """Window outputs -> one output row for each frame; where windows overlap, their mean."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.sums = np.zeros((self.starts[-1], len(OUTPUT_COLUMNS)), np.float32)
        self.counts = np.zeros(self.starts[-1], np.float32)

    def add(self, step: Int[np.ndarray, "B P 3"], outputs: Float[np.ndarray, "A T 22"]) -> None:
        """The outputs of one step of a schedule: of its lanes that are not idle, A of them."""
        for pieces, rows in zip(step.tolist(), outputs, strict=False):
            here = 0
            for sequence, start, length in pieces:
                first = self.starts[sequence] + start
                self.sums[first : first + length] += rows[here : here + length]
                self.counts[first : first + length] += 1
                here += length

    def rows(self) -> Float[np.ndarray, "N 22"]:
        """The outputs of all sequences, one after the other."""
        return self.sums / self.counts[:, None]
