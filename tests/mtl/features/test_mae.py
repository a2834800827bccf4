"""Tests of the masked autoencoder against plain loops, timm's ViT and known parameter counts."""

import math

import numpy as np
import pytest
import timm
import torch

from mtl.errors import InputError
from mtl.features.mae import (
    VITS,
    MaskedAutoencoder,
    ViTEncoder,
    ViTShape,
    patch_statistics,
    patchify,
    sincos_positions,
    unpatchify,
)

SHAPE = ViTShape(4, 16, 2, 2, 8, 1, 2, size=16)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def noise() -> torch.Tensor:
    return torch.rand(3, 16, generator=torch.Generator().manual_seed(2))


def model(**changes) -> MaskedAutoencoder:
    torch.manual_seed(3)
    return MaskedAutoencoder(SHAPE, 16, **changes).eval()


@pytest.mark.parametrize(("width", "side"), [(16, 4), (64, 7), (768, 14)])
def test_positions_are_the_closed_form(width, side):
    expected = np.zeros((side * side + 1, width))
    for patch in range(side * side):
        row, column = divmod(patch, side)
        for i in range(width // 4):
            rate = 10000 ** (-i / (width / 4))
            expected[patch + 1, i] = math.sin(column * rate)
            expected[patch + 1, width // 4 + i] = math.cos(column * rate)
            expected[patch + 1, width // 2 + i] = math.sin(row * rate)
            expected[patch + 1, 3 * width // 4 + i] = math.cos(row * rate)
    np.testing.assert_allclose(sincos_positions(width, side), expected, atol=1e-12)


def test_positions_are_not_trained():
    frozen = [name for name, p in model().named_parameters() if not p.requires_grad]
    assert frozen == ["pos_embed", "decoder_pos_embed"]


def test_patches_are_the_pictures_squares(images):
    patches = patchify(images, 4)
    for place in range(16):
        row, column = divmod(place, 4)
        square = images[:, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
        for y in range(4):
            for x in range(4):
                start = (y * 4 + x) * 3
                assert torch.equal(patches[:, place, start : start + 3], square[:, :, y, x])
    assert torch.equal(unpatchify(patches, 4), images)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("ratio", [0.75, 0.5])
def test_the_loss_is_that_of_a_plain_loop_over_removed_patches(images, noise, normalise, ratio):
    mae = model(mask_ratio=ratio, normalise_pixels=normalise)
    predicted, _ = mae.predict(images, noise)
    patches = patchify(images, 4)
    kept = round(16 * (1 - ratio))
    for one in range(3):
        errors = []
        for place in sorted(range(16), key=lambda i: noise[one, i].item())[kept:]:
            target = patches[one, place]
            if normalise:
                target = (target - target.mean()) / (target.var(correction=1) + 1e-6).sqrt()
            errors.append(((predicted[one, place] - target) ** 2).mean())
        assert len(errors) == 16 - kept
        expected = torch.stack(errors).mean()
        torch.testing.assert_close(mae.losses(images, noise)[one], expected)


def test_removed_pixels_are_not_seen(images, noise):
    mae = model()
    predicted, removed = mae.predict(images, noise)
    others = patchify(images, 4).masked_fill(removed[..., None], 7.0)
    again, _ = mae.predict(unpatchify(others, 4), noise)
    assert torch.equal(again, predicted)
    shown = patchify(images, 4).masked_fill(~removed[..., None], 7.0)
    changed, _ = mae.predict(unpatchify(shown, 4), noise)
    assert not torch.allclose(changed, predicted)


def test_the_order_of_visible_patches_does_not_change_predictions(images, noise):
    mae = model()
    predicted, removed = mae.predict(images, noise)
    # The same patches are visible, but in the opposite order.
    order = noise.argsort(dim=1)
    swapped = noise.clone()
    for one in range(3):
        swapped[one, order[one, :4]] = noise[one, order[one, :4].flip(0)]
    again, same = mae.predict(images, swapped)
    assert torch.equal(same, removed)
    torch.testing.assert_close(again, predicted, atol=1e-5, rtol=0)


def test_reconstructions_keep_visible_patches_and_predict_masked_ones(images, noise, monkeypatch):
    mae = model()
    _, removed = mae.predict(images, noise)
    patches = patchify(images, 4)
    mean, deviation = patch_statistics(patches)
    monkeypatch.setattr(mae, "predict", lambda *_: ((patches - mean) / deviation, removed))
    masked, predicted = mae.reconstruct(images, noise)
    torch.testing.assert_close(predicted, images)  # the patched decoder is perfect
    hidden = patchify(masked, 4)
    assert torch.equal(hidden[~removed], patches[~removed])
    assert (hidden[removed] == 0).all()


@pytest.mark.parametrize("name", ["mae_vit_base", "mae_vit_large"])
def test_parameters_are_as_many_as_the_layout_says(name):
    shape = VITS[name]
    with torch.device("meta"):
        whole, encoder = MaskedAutoencoder(shape, 224), ViTEncoder(shape, 224)

    def blocks(width: int, depth: int) -> int:
        attention = 3 * (width * width + width) + width * width + width
        mlp = 4 * width * width + 4 * width + 4 * width * width + width
        return depth * (attention + mlp + 4 * width) + 2 * width  # and the last norm

    patches, pixels, d = 196, 3 * 16 * 16, shape.width
    own = pixels * d + d + d + (patches + 1) * d + blocks(d, shape.depth)
    e = shape.decoder_width
    decoder = d * e + e + e + (patches + 1) * e + blocks(e, shape.decoder_depth) + e * pixels
    decoder += pixels
    assert sum(p.numel() for p in encoder.parameters()) == own
    assert sum(p.numel() for p in whole.parameters()) == own + decoder
    assert own == {"mae_vit_base": 85_798_656, "mae_vit_large": 303_301_632}[name]


def test_names_are_the_references():
    names = set(model().state_dict())
    block = {
        f"{part}.{kind}"
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }
    expected = {"cls_token", "pos_embed", "mask_token", "decoder_pos_embed"}
    for part in ("patch_embed.proj", "norm", "decoder_embed", "decoder_norm", "decoder_pred"):
        expected |= {f"{part}.weight", f"{part}.bias"}
    expected |= {f"blocks.{i}.{name}" for i in range(2) for name in block}
    expected |= {f"decoder_blocks.0.{name}" for name in block}
    assert names == expected


def test_the_encoder_is_timms_vit_with_the_same_weights():
    """The timm model gets all weights of ours, including the position embeddings."""
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, num_classes=0, global_pool="token"
    ).eval()
    torch.manual_seed(4)
    ours = ViTEncoder(ViTShape(16, 192, 12, 3, size=64), 64).eval()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens = theirs.forward_features(image)
        torch.testing.assert_close(ours.tokens(image), tokens, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(image), tokens[:, 1:].mean(dim=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "ratio", "message"),
    [
        (18, 0.75, r"size = 18 is refused: it must be a multiple of a patch's 4 pixels"),
        (2, 0.75, "size = 2 is refused"),
        (16, 0.99, r"mask_ratio = 0.99 is refused: of 16 patches it leaves 0"),
        (16, 0.0, "mask_ratio = 0 is refused: of 16 patches it leaves 16"),
    ],
)
def test_impossible_numbers_are_refused(size, ratio, message):
    with pytest.raises(InputError, match=message):
        MaskedAutoencoder(SHAPE, size, ratio)
