"""Temporal encoders: features of a window in, one hidden vector per frame out.

A new encoder is one class here, one line in ``ENCODERS`` and one YAML in
``sweeps/configs/encoder``: its keyword-only constructor parameters are its config keys, ``layers``
among them, since frameworks put encoders on top of each other.

Shapes: B windows, T frames, F features, H hidden.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mtl.errors import InputError
from mtl.strict import Positive, Probability

State = tuple[Tensor, ...] | None


@contextmanager
def _without_onednn() -> Iterator[None]:
    """On the CPU, torch's own LSTM: oneDNN's sets itself up anew at each call, and the windows of
    this project make many short ones (``benchmarks/training.py``).
    """
    onednn: Any = torch.backends.mkldnn  # its flags are typed as the descriptors behind them
    before, onednn.enabled = onednn.enabled, False
    try:
        yield
    finally:
        onednn.enabled = before


class Encoder(nn.Module, ABC):
    """One hidden vector for each frame of a window.

    Args (of each one's constructor, beside its own):
        features: Width F of the input.
        on_top: Whether the input is the output of another encoder of this kind, so that the two are
            one stack cut in two.

    Attributes:
        hidden: Width H of the output.
        carries_state: Whether the encoder walks a video in order and carries its state from window to
            window; one that does not is given overlapping windows, averaged when stitched.
    """

    carries_state: ClassVar[bool]
    hidden: int

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "B T F"],
        valid: Bool[Tensor, "B T"],
        state: State,
        sequence_starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], State]:
        """Encode windows.

        Args:
            x: Features, z-scored; padding stands at the end of a window.
            valid: Which frames are no padding. Padding never changes a real frame's output.
            state: What the previous window of each lane left behind, batch first and detached, or
                None at the start; it may have lanes more, that have run out since.
            sequence_starts: True where a video starts; the recurrent state is reset there. On the
                CPU. None if no video starts within the window.
        """


class Recurrent(Encoder):
    """A stack of recurrent layers, dropout between and after them."""

    carries_state = True
    layer: ClassVar[type[nn.GRU] | type[nn.LSTM]]

    def __init__(
        self,
        features: int,
        on_top: bool = False,
        *,
        hidden: Positive,
        layers: Positive,
        dropout: Probability,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        between = dropout if layers > 1 else 0.0
        self.stack = self.layer(features, hidden, layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B T F"],
        valid: Bool[Tensor, "B T"],
        state: State,
        sequence_starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], State]:
        """Encode windows, each lane going on from its state."""
        if state is not None:
            state = tuple(part[: len(x)] for part in state)
        starts = (
            []
            if sequence_starts is None
            else sequence_starts.any(dim=0).nonzero().flatten().tolist()
        )
        outputs = []
        for start, stop in pairwise(sorted({0, *starts, x.shape[1]})):
            if sequence_starts is not None and state is not None and start in starts:
                goes_on = ~sequence_starts[:, start].to(x.device)
                state = tuple(p * goes_on.view(-1, *[1] * (p.dim() - 1)) for p in state)
            with _without_onednn():
                y, last = self.stack(x[:, start:stop], self._to_torch(state))
            state = self._from_torch(last)
            outputs.append(y)
        y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return self.dropout(y), tuple(part.detach() for part in state or ())

    @staticmethod
    def _from_torch(last: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        parts = last if isinstance(last, tuple) else (last,)
        return tuple(part.transpose(0, 1) for part in parts)

    @staticmethod
    def _to_torch(state: State) -> Tensor | tuple[Tensor, ...] | None:
        if state is None:
            return None
        parts = tuple(part.transpose(0, 1).contiguous() for part in state)
        return parts if len(parts) > 1 else parts[0]


class GRU(Recurrent):
    """Gated recurrent units (Cho et al. 2014)."""

    layer = nn.GRU


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997)."""

    layer = nn.LSTM


class Transformer(Encoder):
    """Linear to H, sinusoidal positions, post-norm ReLU layers (Vaswani et al. 2017)."""

    carries_state = False

    def __init__(
        self,
        features: int,
        on_top: bool = False,
        *,
        hidden: Positive,
        layers: Positive,
        heads: Positive,
        feedforward: Positive,
        dropout: Probability,
    ) -> None:
        super().__init__()
        if hidden % heads or hidden % 2:
            raise InputError(
                f"encoder.hidden = {hidden} must be even and a multiple of encoder.heads = {heads}:"
                f" set encoder.hidden={math.lcm(2, heads) * max(1, hidden // math.lcm(2, heads))}"
            )
        self.hidden, self.on_top = hidden, on_top
        goes_on = on_top and features == hidden
        self.project = nn.Identity() if goes_on else nn.Linear(features, hidden)
        self.dropout = nn.Dropout(dropout)
        layer = nn.TransformerEncoderLayer(hidden, heads, feedforward, dropout, batch_first=True)
        # Nested tensors would cut the output to the longest real window.
        self.stack = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for each in self.stack.layers:
            each.self_attn.in_proj_bias.register_hook(_without_keys)

    def forward(
        self,
        x: Float[Tensor, "B T F"],
        valid: Bool[Tensor, "B T"],
        state: State,
        sequence_starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], State]:
        """Encode windows; no frame attends to padding."""
        x = self.project(x)
        if not self.on_top:
            x = self.dropout(x + sinusoidal_positions(x.shape[1], self.hidden).to(x))
        # An idle lane has no real frame: it may look at itself, or its softmax is 0/0.
        idle = ~valid.any(dim=1, keepdim=True)
        return self.stack(x, src_key_padding_mask=~(valid | idle)), None


class PerFrame(Encoder):
    """(Linear, ReLU, Dropout) for each layer, on each frame alone: what time adds is measured
    against it.
    """

    carries_state = False

    def __init__(
        self,
        features: int,
        on_top: bool = False,
        *,
        hidden: Positive,
        layers: Positive,
        dropout: Probability,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        widths = [features, *[hidden] * (layers - 1)]
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(w, hidden), nn.ReLU(), nn.Dropout(dropout)) for w in widths)
        )

    def forward(
        self,
        x: Float[Tensor, "B T F"],
        valid: Bool[Tensor, "B T"],
        state: State,
        sequence_starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], State]:
        """Encode frames."""
        return self.layers(x), None


def _without_keys(gradient: Tensor) -> Tensor:
    """The gradient of attention's (query, key, value) biases; that of the keys' is 0.

    softmax does not see what it adds to all keys alike: what is not 0 there is rounding, and Adam
    would make a step of full size of it, another one for each number of workers.
    """
    queries, keys, values = gradient.chunk(3)
    return torch.cat([queries, torch.zeros_like(keys), values])


def sinusoidal_positions(frames: int, hidden: int) -> Float[Tensor, "T H"]:
    """sin and cos of position x 10000^(-2i/H), interleaved (Vaswani et al. 2017, 3.5)."""
    position = torch.arange(frames).unsqueeze(1)
    rate = torch.exp(torch.arange(0, hidden, 2) * (-math.log(10_000.0) / hidden))
    table = torch.zeros(frames, hidden)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate)
    return table


ENCODERS: dict[str, type[Encoder]] = {
    "gru": GRU,
    "lstm": LSTM,
    "transformer": Transformer,
    "per_frame": PerFrame,
}
