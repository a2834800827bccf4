"""Temporal encoders, which map the features of a window to one hidden vector per frame.

A new encoder is one class here, one line in ``ENCODERS`` and one YAML file in
``sweeps/configs/encoder``. The keyword-only parameters of its constructor are its config keys.
``hidden`` and ``layers`` must be among them: the learning rate may be scaled by the width, and
frameworks stack encoders with different numbers of layers.

Shapes: B windows, T frames, F features, H hidden.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import BeforeValidator
from torch import Tensor, nn

from mtl.errors import InputError
from mtl.strict import Positive, Probability

State = tuple[Tensor, ...] | None
"""Recurrent state of each row of a batch: (h,) of a GRU, (h, c) of an LSTM; None at the start.

The first dimension of each tensor is the row of the batch.
"""


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Turn off oneDNN within this context, so that torch's own LSTM runs on the CPU.

    The LSTM of oneDNN has a set-up cost at each call, which makes the many short windows of this
    project slow (measured by ``benchmarks/training.py``).
    """
    onednn: Any = torch.backends.mkldnn  # Any: torch's annotations give `enabled` a wrong type
    before, onednn.enabled = onednn.enabled, False
    try:
        yield
    finally:
        onednn.enabled = before


class Encoder(nn.Module, ABC):
    """Base class of the encoders, which compute one hidden vector for each frame of a window.

    Every encoder's constructor takes ``features``, ``on_top`` and the encoder's own keyword-only
    parameters.

    Args:
        features: Width F of the input.
        on_top: True if the input is the output of another encoder of the same class; both then form
            one stack of layers.

    Attributes:
        hidden: Width H of the output.
        carries_state: True if the windows of a video must be encoded in order, because the
            recurrent state after one window is the initial state of the next. If False, windows
            overlap at evaluation and the predictions of a frame are averaged.
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
        """Compute the hidden vector of each frame of a batch of windows.

        Args:
            x: Features, z-scored, shape (windows, frames, features); padding is at the end of a
                window.
            valid: Valid mask, False where a window is padded. Padding does not change the output of
                a valid frame.
            state: Detached recurrent state after the previous window of each row of the batch; None
                at the start. It may have more rows than ``x``, because the videos of the last rows
                may be over.
            sequence_starts: True where a video starts; the recurrent state is reset there. The
                tensor is on the CPU. None if no video starts in these windows.

        Returns:
            The hidden vectors, and the detached state after the windows (None if the encoder
            carries no state).
        """


class Recurrent(Encoder):
    """Base class of the recurrent encoders, with dropout between and after the recurrent layers.

    Args:
        features: Width F of the input.
        on_top: Not used; every encoder's constructor has this argument.
        hidden: Width H of each layer.
        layers: Number of layers.
        dropout: Dropout probability.

    Attributes:
        layer: Class of the recurrent layers, ``nn.GRU`` or ``nn.LSTM``.
    """

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
        """Compute the hidden vectors of windows, continuing from the state after earlier windows.

        The recurrent state is set to 0 at frames where a new video starts.
        """
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
                continues = ~sequence_starts[:, start].to(x.device)
                state = tuple(p * continues.view(-1, *[1] * (p.dim() - 1)) for p in state)
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
    """Encoder of gated recurrent units (Cho et al. 2014)."""

    layer = nn.GRU


class LSTM(Recurrent):
    """Encoder with long short-term memory (Hochreiter and Schmidhuber 1997)."""

    layer = nn.LSTM


def _auto_or_width(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise InputError(f"encoder.feedforward = {value!r} must be auto or a whole number above 0")


FeedForward = Annotated[int | Literal["auto"], BeforeValidator(_auto_or_width)]
"""Width of a feed-forward network, or ``auto``."""


class Transformer(Encoder):
    """Transformer encoder (Vaswani et al. 2017) with ReLU.

    A linear layer maps the F features to the width H, and sinusoidal position embeddings are added.
    If the encoder is on top of another transformer, no positions are added, and there is no linear
    layer if F = H. Layers are normalised after each residual sum (post-norm, as in Vaswani et al.
    2017) or before each sublayer and once at the end (pre-norm). Wide post-norm encoders need a
    small learning rate: with a large one their outputs become constant (Xiong et al. 2020, "On
    Layer Normalization in the Transformer Architecture").

    Args:
        features: Width F of the input.
        on_top: True if the input is the output of another transformer.
        hidden: Width H of each layer; even, and a multiple of ``heads``.
        layers: Number of layers.
        heads: Number of attention heads in a layer.
        feedforward: Width of the feed-forward network in a layer; ``auto`` for twice ``hidden``,
            the ratio of Zhang et al. 2022.
        dropout: Dropout probability.
        norm: Place of the layer normalisation: ``post`` or ``pre``.

    Raises:
        InputError: ``hidden`` is odd or no multiple of ``heads``.
    """

    carries_state = False

    def __init__(
        self,
        features: int,
        on_top: bool = False,
        *,
        hidden: Positive,
        layers: Positive,
        heads: Positive,
        feedforward: FeedForward,
        dropout: Probability,
        norm: Literal["post", "pre"] = "post",
    ) -> None:
        super().__init__()
        if hidden % heads or hidden % 2:
            raise InputError(
                f"encoder.hidden = {hidden} must be even and a multiple of encoder.heads = {heads}:"
                f" set encoder.hidden={math.lcm(2, heads) * max(1, hidden // math.lcm(2, heads))}"
            )
        self.hidden, self.on_top = hidden, on_top
        same_width = on_top and features == hidden
        self.project = nn.Identity() if same_width else nn.Linear(features, hidden)
        self.dropout = nn.Dropout(dropout)
        first = norm == "pre"
        width = 2 * hidden if feedforward == "auto" else feedforward
        layer = nn.TransformerEncoderLayer(
            hidden, heads, width, dropout, batch_first=True, norm_first=first
        )
        last = nn.LayerNorm(hidden) if first else None
        # Nested tensors would shorten the output to the longest valid window.
        self.stack = nn.TransformerEncoder(layer, layers, last, enable_nested_tensor=False)
        for each in self.stack.layers:
            each.self_attn.in_proj_bias.register_hook(_without_key_gradient)

    def forward(
        self,
        x: Float[Tensor, "B T F"],
        valid: Bool[Tensor, "B T"],
        state: State,
        sequence_starts: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T H"], State]:
        """Compute the hidden vectors of windows.

        Each frame attends to the valid frames of its own window only.
        """
        x = self.project(x)
        if not self.on_top:
            x = self.dropout(x + sinusoidal_positions(x.shape[1], self.hidden).to(x))
        # A window without any valid frame attends to its padding: else its softmax is 0 / 0.
        idle = ~valid.any(dim=1, keepdim=True)
        return self.stack(x, src_key_padding_mask=~(valid | idle)), None


class PerFrame(Encoder):
    """Encoder that sees one frame at a time: layers of (Linear, ReLU, Dropout).

    This encoder is the baseline of the temporal encoders: a temporal encoder that scores
    higher than this encoder gains from the other frames of a window.

    Args:
        features: Width F of the input.
        on_top: Not used; every encoder's constructor has this argument.
        hidden: Width H of each layer.
        layers: Number of layers.
        dropout: Dropout probability.
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
        """Compute the hidden vector of each frame from the features of that frame only."""
        return self.layers(x), None


def _without_key_gradient(gradient: Tensor) -> Tensor:
    """Return the gradient of an attention layer's input bias with the key part set to 0.

    The bias is the query, key and value biases in one vector. The key bias adds a constant to the
    scores of each query, and softmax ignores constants, so the true gradient is 0. Rounding makes
    the computed gradient different from 0, and Adam would turn it into a step of full size that
    differs with the number of DDP workers.
    """
    queries, keys, values = gradient.chunk(3)
    return torch.cat([queries, torch.zeros_like(keys), values])


def sinusoidal_positions(frames: int, hidden: int) -> Float[Tensor, "T H"]:
    """Return the sinusoidal position embedding of each frame, shape (frames, hidden).

    Columns 2i and 2i + 1 are the sine and the cosine of position x 10000^(-2i / hidden) (Vaswani et
    al. 2017, section 3.5).
    """
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
