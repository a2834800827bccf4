"""Windows of sequences: scheduled, cut into batches, stitched together again.

A schedule says for each step and lane which frames of which sequence come next. It follows from the
lengths, the number of lanes, the seed and the epoch alone, so that any number of workers, each
taking every W-th lane, trains on the same global batches. A lane that has run out has length 0;
such lanes come last.

Shapes: S steps, B lanes, T frames of a window, F features of all sets together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtl.sequences import VideoSequence
from mtl.tasks import LABEL_COLUMNS, OUTPUT_COLUMNS

Schedule = Int[np.ndarray, "S B 3"]
"""(sequence, start, length) for each step and lane."""


def carried_schedule(
    lengths: Sequence[int], lanes: int, window_frames: int, random: np.random.Generator | None
) -> Schedule:
    """For an encoder that carries its state: each lane walks whole sequences from their start.

    Sequences go, longest first, to the lane with the least to do; ``random`` then shuffles them
    within their lane (None: the order stays).
    """
    queues: list[list[int]] = [[] for _ in range(min(lanes, len(lengths)))]
    load = np.zeros(len(queues), int)
    order = random.permutation(len(lengths)) if random else np.arange(len(lengths))
    for sequence in sorted(order, key=lambda i: -lengths[i]):
        lane = int(load.argmin())
        queues[lane].append(int(sequence))
        load[lane] += -(-lengths[sequence] // window_frames)
    if random:
        for queue in queues:
            random.shuffle(queue)
    queues = [queues[lane] for lane in np.argsort(-load, kind="stable")]
    return _stacked([[w for i in q for w in _cut(i, lengths[i], window_frames)] for q in queues])


def free_schedule(
    lengths: Sequence[int], lanes: int, window_frames: int, random: np.random.Generator | None
) -> Schedule:
    """For an encoder without memory: windows in any order.

    With ``random``: windows side by side from a random phase, those of a length together, as many a
    step as fill ``lanes`` whole windows, so that little is padding and each frame weighs the same;
    the steps are shuffled. Without: windows that overlap by half, so that each frame is seen with
    what is around it; their predictions are averaged.
    """
    windows: list[tuple[int, int, int]] = []
    for sequence, length in enumerate(lengths):
        if random:
            phase = int(random.integers(1, min(window_frames, length) + 1))
            windows += [(sequence, 0, phase), *_cut(sequence, length, window_frames, phase)]
        else:
            last = max(0, length - window_frames)
            starts = sorted({*range(0, last, window_frames // 2), last})
            windows += [(sequence, start, min(window_frames, length)) for start in starts]
    if random is None:
        return _stacked([windows[lane::lanes] for lane in range(min(lanes, len(windows)))])
    shuffled = [windows[i] for i in random.permutation(len(windows))]
    steps: list[list[tuple[int, int, int]]] = [[]]
    for window in sorted(shuffled, key=lambda window: window[2]):
        if (len(steps[-1]) + 1) * window[2] > lanes * window_frames:
            steps.append([])
        steps[-1].append(window)
    random.shuffle(steps)
    return _stacked(steps).swapaxes(0, 1)


def _cut(
    sequence: int, length: int, window_frames: int, start: int = 0
) -> list[tuple[int, int, int]]:
    return [
        (sequence, at, min(window_frames, length - at))
        for at in range(start, length, window_frames)
    ]


def _stacked(lanes: Sequence[Sequence[tuple[int, int, int]]]) -> Schedule:
    """Of the lanes' windows, or, its first two axes swapped, of the steps'."""
    schedule = np.zeros((max(map(len, lanes)), len(lanes), 3), int)
    for lane, windows in enumerate(lanes):
        schedule[: len(windows), lane] = windows
    return schedule


@dataclass(frozen=True)
class Batch:
    """One step: features z-scored, 0 where padded.

    Attributes:
        x: Features.
        real: Which frames are no padding.
        labels: With ``mask``: what is known of each frame.
        begins: Lanes in which a sequence begins, whose state is therefore 0.
    """

    x: Float[Tensor, "B T F"]
    real: Bool[Tensor, "B T"]
    labels: Float[Tensor, "B T 15"]
    mask: Bool[Tensor, "B T 15"]
    begins: Bool[Tensor, " B"]


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

    def __call__(self, schedule: Schedule) -> Iterator[Batch]:
        """The batches of a schedule."""
        return (self.cut(step) for step in schedule)

    def cut(self, step: Int[np.ndarray, "B 3"]) -> Batch:
        """The batch of one step of a schedule, without idle lanes; one frame of padding where all
        are idle.
        """
        step = step[: max(1, np.count_nonzero(step[:, 2]))]
        lanes, frames = len(step), max(1, int(step[:, 2].max()))
        cut = [
            [rows.window(start, length) for rows in self.sequences[index].features]
            for index, start, length in step.tolist()
        ]
        stored = np.result_type(*{values.dtype for values in cut[0]})
        x = np.zeros((lanes, frames, len(self.mean)), stored)
        labels = np.zeros((lanes, frames, len(LABEL_COLUMNS)), np.float32)
        mask = np.zeros(labels.shape, bool)
        for lane, (index, start, length) in enumerate(step.tolist()):
            sequence = self.sequences[index]
            labels[lane, :length] = sequence.labels[start : start + length]
            mask[lane, :length] = sequence.mask[start : start + length]
            np.concatenate(cut[lane], axis=1, out=x[lane, :length])
        real = torch.from_numpy(np.arange(frames) < step[:, 2:]).to(self.device)
        features = torch.from_numpy(x).to(self.device, non_blocking=True).to(self.dtype)
        features = features.sub_(self.mean).mul_(self.scale)
        if step[:, 2].min() < frames:
            features *= real[:, :, None]
        return Batch(
            features,
            real,
            torch.from_numpy(labels).to(self.device, self.dtype, non_blocking=True),
            torch.from_numpy(mask).to(self.device, non_blocking=True),
            torch.from_numpy(step[:, 1] == 0).to(self.device),
        )


class Stitch:
    """Window outputs -> one output row for each frame; where windows overlap, their mean."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        self.sums = np.zeros((self.starts[-1], len(OUTPUT_COLUMNS)), np.float32)
        self.counts = np.zeros(self.starts[-1], np.float32)

    def add(self, step: Int[np.ndarray, "B 3"], outputs: Float[np.ndarray, "A T 22"]) -> None:
        """The outputs of one step of a schedule: of its lanes that are not idle, A of them."""
        for (sequence, start, length), rows in zip(step.tolist(), outputs, strict=False):
            first = self.starts[sequence] + start
            self.sums[first : first + length] += rows[:length]
            self.counts[first : first + length] += 1

    def rows(self) -> Float[np.ndarray, "N 22"]:
        """The outputs of all sequences, one after the other."""
        return self.sums / self.counts[:, None]
