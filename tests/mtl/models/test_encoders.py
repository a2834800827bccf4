import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from mtl.errors import InputError
from mtl.models.encoders import (
    ENCODERS,
    GRU,
    LSTM,
    Encoder,
    State,
    Transformer,
    sinusoidal_positions,
)
from tests.support.laws import (
    ENCODER_NAMES,
    STATEFUL_ENCODERS,
    TOLERANCE,
    WIDTH,
    inputs,
    parameters,
)

LENGTHS = (6, 3, 1, 5)
ENCODER_NAMES = (*ENCODER_NAMES, "transformer pre")
"""Encoders under the laws: each of the registry, and the transformer with pre-norm layers."""


def make(name: str, width: int = WIDTH, **changes: object) -> Encoder:
    torch.manual_seed(3)
    name, _, norm = name.partition(" ")
    changes = {"norm": norm, **changes} if norm else changes
    return ENCODERS[name](width, **parameters("encoder", name, **changes))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_padding_changes_no_real_frame(name: str, training: bool) -> None:
    encoder = make(name).train(training)
    x, valid = inputs(LENGTHS)
    whole, _ = encoder(x, valid, None)
    assert whole.shape == (len(LENGTHS), max(LENGTHS), encoder.hidden)
    for lane, length in enumerate(LENGTHS):
        alone, _ = encoder(x[lane : lane + 1, :length], valid[lane : lane + 1, :length], None)
        close(whole[lane, :length], alone[0])


@pytest.mark.parametrize("lengths", [LENGTHS, (4, 0, 2)])
@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_padding_in_inference_mode(name: str, lengths: tuple[int, ...]) -> None:
    """Torch runs a transformer by other code in inference mode."""
    encoder = make(name).eval()
    x, valid = inputs(lengths)
    expected, _ = encoder(x, valid, None)
    with torch.inference_mode():
        outputs, _ = encoder(x, valid, None)
    assert outputs.isfinite().all()
    close(outputs[valid], expected[valid].detach())


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_padding_gets_and_gives_no_gradient(name: str) -> None:
    x, valid = inputs(LENGTHS)
    grads = []
    for noise in (0.0, 9.0):
        encoder = make(name)
        given = (x + noise * ~valid[:, :, None]).requires_grad_()
        encoder(given, valid, None)[0][valid].square().sum().backward()
        assert given.grad is not None
        assert not given.grad[~valid].any()
        assert given.grad[valid].any(dim=-1).all()
        grads.append([p.grad for p in encoder.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_an_idle_lane_changes_nothing(name: str, training: bool) -> None:
    encoder = make(name).train(training)
    x, valid = inputs((4, 4, 0))
    outputs, _ = encoder(x, valid, None)
    close(outputs[:2], encoder(x[:2], valid[:2], None)[0])
    outputs[valid].sum().backward()
    assert outputs.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_lanes_do_not_see_each_other(name: str) -> None:
    encoder = make(name)
    x, valid = inputs(LENGTHS)
    other = torch.cat([x[:1], inputs(LENGTHS, seed=1)[0][1:]])
    close(encoder(x, valid, None)[0][0], encoder(other, valid, None)[0][0])


@pytest.mark.parametrize("name", STATEFUL_ENCODERS)
@pytest.mark.parametrize("cuts", [(1, 2, 3), (5, 1), (3, 3)])
def test_windows_with_a_carried_state_equal_the_whole(name: str, cuts: tuple[int, ...]) -> None:
    encoder = make(name)
    x, valid = inputs((6, 6))
    whole, _ = encoder(x, valid, None)
    state: State = None
    outputs = []
    for window, mask in zip(x.split(cuts, dim=1), valid.split(cuts, dim=1), strict=True):
        part, state = encoder(window, mask, state)
        outputs.append(part)
    close(torch.cat(outputs, dim=1), whole)


@pytest.mark.parametrize("name", STATEFUL_ENCODERS)
def test_a_video_start_within_a_window_resets_the_state(name: str) -> None:
    encoder = make(name)
    x, valid = inputs((6, 6, 6))
    _, before = encoder(x.flip(1), valid, None)
    sequence_starts = torch.zeros(3, 6, dtype=torch.bool)
    sequence_starts[0, 2] = sequence_starts[0, 5] = sequence_starts[1, 0] = sequence_starts[
        1, 5
    ] = True
    whole, after = encoder(x, valid, before, sequence_starts)
    for lane, cuts in enumerate([(0, 2, 5, 6), (0, 5, 6), (0, 6)]):
        for start, stop in pairwise(cuts):
            own = (
                None if sequence_starts[lane, start] else tuple(p[lane : lane + 1] for p in before)
            )
            piece = slice(lane, lane + 1), slice(start, stop)
            alone, last = encoder(x[piece], valid[piece], own)
            close(whole[piece], alone)
        for part, expected in zip(after, last, strict=True):
            close(part[lane], expected[0])


@pytest.mark.parametrize("name", STATEFUL_ENCODERS)
def test_the_gradient_stops_at_a_video_start(name: str) -> None:
    encoder = make(name)
    x, valid = inputs((6, 6))
    sequence_starts = torch.zeros(2, 6, dtype=torch.bool)
    sequence_starts[0, 2] = True
    x.requires_grad_()
    encoder(x, valid, None, sequence_starts)[0][:, 5].square().sum().backward()
    assert not x.grad[0, :2].any()
    assert x.grad[0, 2:].any(dim=1).all()
    assert x.grad[1].any(dim=1).all()


@pytest.mark.parametrize("name", STATEFUL_ENCODERS)
def test_states_of_lanes_without_further_windows_are_dropped(name: str) -> None:
    encoder = make(name)
    x, valid = inputs((4, 4, 4))
    _, before = encoder(x, valid, None)
    first, _ = encoder(x, valid, before)
    fewer, state = encoder(x[:2], valid[:2], before)
    close(fewer, first[:2])
    assert {len(part) for part in state} == {2}


@pytest.mark.parametrize("name", STATEFUL_ENCODERS)
def test_a_carried_state_is_detached_and_batch_first(name: str) -> None:
    x, valid = inputs((4, 4, 4))
    _, state = make(name)(x, valid, None)
    assert state
    assert all(part.shape[0] == 3 and not part.requires_grad for part in state)


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_dropout_acts_in_training_only(name: str) -> None:
    encoder = make(name, dropout=0.5)
    x, valid = inputs((6, 6))
    assert not torch.equal(encoder(x, valid, None)[0], encoder(x, valid, None)[0])
    encoder.eval()
    assert torch.equal(encoder(x, valid, None)[0], encoder(x, valid, None)[0])


@pytest.mark.parametrize("name", STATEFUL_ENCODERS)
def test_dropout_is_applied_after_the_recurrent_layers(name: str) -> None:
    x, valid = inputs((50, 50))
    outputs, _ = make(name, dropout=0.5)(x, valid, None)
    assert 0.4 < (outputs == 0).float().mean() < 0.6


def unroll(encoder: GRU | LSTM, x: Tensor, cells: list[nn.Module]) -> Tensor:
    """Return the outputs of torch's cells with the stack's weights, computed frame by frame."""
    for layer, cell in enumerate(cells):
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        cell.load_state_dict({n: getattr(encoder.stack, f"{n}_l{layer}") for n in names})
        state, outputs = None, []
        for frame in x.unbind(dim=1):
            state = cell(frame, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        x = torch.stack(outputs, dim=1)
    return x


@pytest.mark.parametrize(("name", "cell"), [("gru", nn.GRUCell), ("lstm", nn.LSTMCell)])
def test_recurrent_encoders_equal_torch_s_cells(name: str, cell: type[nn.Module]) -> None:
    encoder = make(name, layers=2)
    x, valid = inputs((7, 7))
    expected = unroll(encoder, x, [cell(WIDTH, 8), cell(8, 8)])
    close(encoder(x, valid, None)[0], expected)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_transformer_equals_torch_s_layers(norm: str) -> None:
    encoder = make("transformer", layers=3, norm=norm)
    x, valid = inputs((7, 7))
    expected = nn.functional.linear(x, encoder.project.weight, encoder.project.bias)
    expected = expected + sinusoidal_positions(7, 8)
    for number in range(3):
        layer = nn.TransformerEncoderLayer(
            8, 2, 12, 0.0, batch_first=True, norm_first=norm == "pre"
        )
        prefix = f"stack.layers.{number}."
        weights = {k: v for k, v in encoder.state_dict().items() if k.startswith(prefix)}
        layer.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items()})
        expected = layer(expected)
    if norm == "pre":
        expected = nn.functional.layer_norm(expected, (8,))
    close(encoder(x, valid, None)[0], expected)


def test_the_feed_forward_network_is_twice_as_wide_by_default() -> None:
    widths = [make("transformer", feedforward=w).stack.layers[0].linear1 for w in ("auto", 16)]
    assert [layer.out_features for layer in widths] == [16, 16]


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_bias_of_attention_s_keys_stays_zero(norm: str) -> None:
    """The gradient of this bias is pure rounding, which Adam would turn into full steps."""
    encoder = make("transformer", norm=norm)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1, weight_decay=0.1)
    x, valid = inputs(LENGTHS)
    for _ in range(3):
        optimizer.zero_grad()
        encoder(x, valid, None)[0][valid].square().sum().backward()
        optimizer.step()
    for layer in encoder.stack.layers:
        queries, keys, values = layer.self_attn.in_proj_bias.chunk(3)
        assert not keys.any()
        assert queries.all()
        assert values.all()


def test_the_bias_of_attention_s_keys_does_not_change_outputs() -> None:
    encoder = make("transformer").eval()
    x, valid = inputs(LENGTHS)
    expected, _ = encoder(x, valid, None)
    with torch.no_grad():
        for layer in encoder.stack.layers:
            layer.self_attn.in_proj_bias[8:16] = torch.randn(8)
    close(encoder(x, valid, None)[0][valid], expected[valid])


def test_sinusoidal_positions_have_their_closed_form() -> None:
    table = sinusoidal_positions(50, 8)
    for position in (0, 1, 7, 49):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_the_transformer_depends_on_the_order_of_frames() -> None:
    encoder = make("transformer")
    x, valid = inputs((6,))
    turned = encoder(x.flip(1), valid, None)[0].flip(1)
    assert (turned - encoder(x, valid, None)[0]).abs().max() > 0.01


@pytest.mark.parametrize(("hidden", "heads"), [(10, 4), (9, 3), (7, 1), (3, 4)])
def test_heads_that_do_not_divide_hidden_are_refused_with_a_fix(hidden: int, heads: int) -> None:
    with pytest.raises(InputError, match=f"encoder.hidden = {hidden} .*heads = {heads}") as error:
        make("transformer", hidden=hidden, heads=heads)
    fix = int(str(error.value).split("encoder.hidden=")[1])
    assert isinstance(make("transformer", hidden=fix, heads=heads), Transformer)


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_the_same_seed_makes_the_same_encoder(name: str) -> None:
    x, valid = inputs((6, 3))
    first, again = (make(name).eval()(x, valid, None)[0] for _ in range(2))
    assert torch.equal(first, again)
