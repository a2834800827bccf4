"""Tests of the images, sizes and features of backbones."""

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from torch import nn

from mtl.errors import InputError
from mtl.features.backbones import BACKBONES, Recipe, load_backbone, make_backbone
from tests.support.backbone_cases import IMAGENET, SIZES, WIDTH, backbone, faces, features


@pytest.mark.parametrize("name", SIZES)
def test_features_depend_on_no_other_image(name: str) -> None:
    model = backbone(name)
    pixels = faces(model.size)
    whole = features(model, pixels)
    assert whole.shape == (5, model.width)
    assert model.width == WIDTH[name]
    assert (whole.std(dim=0) > 0).float().mean() > 0.4  # ReLU leaves some at 0
    scale = whole.abs().max().item()
    for alone in (
        torch.cat([features(model, image[None]) for image in pixels]),
        features(model, pixels.flip(0)).flip(0),
        torch.cat([features(model, part) for part in pixels.split([3, 2])]),
    ):
        torch.testing.assert_close(alone, whole, atol=1e-5 * max(1, scale), rtol=0)


@pytest.mark.parametrize("name", SIZES)
def test_dropout_and_statistics_are_off(name: str) -> None:
    model = backbone(name)
    pixels = faces(model.size)
    assert not any(module.training for module in model.modules())
    assert torch.equal(features(model, pixels), features(model, pixels))
    assert make_backbone(name, SIZES[name]).training


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK"])
@pytest.mark.parametrize("name", SIZES)
def test_images_of_any_size_and_mode_are_taken(name: str, mode: str) -> None:
    model = backbone(name)
    for size in ((1, 1), (37, 90), (model.size, model.size), (300, 200)):
        taken = model.transform(Image.new("RGB", size, (200, 100, 50)).convert(mode))
        assert taken.dtype == np.uint8
        assert taken.shape == (model.size, model.size, 3)
        assert taken.flags.writeable
    assert features(model, torch.from_numpy(taken)[None]).shape == (1, model.width)


@pytest.mark.parametrize("name", SIZES)
def test_an_image_of_the_right_size_is_left_as_it_is(name: str) -> None:
    model = backbone(name)
    image = faces(model.size, 1)[0].numpy()
    assert np.array_equal(model.transform(Image.fromarray(image)), image)


def test_the_whole_image_is_resized_and_antialiased() -> None:
    model = backbone("iresnet18")
    stripes = np.zeros((320, 640, 3), np.uint8)
    stripes[:, ::2] = 200  # narrower than an output pixel, so the output is their mean
    stripes[:, :320, 1] = 0
    taken = model.transform(Image.fromarray(stripes)).astype(int)
    assert np.abs(taken[..., [0, 2]] - 100).max() <= 2
    assert np.abs(taken[:, :15, 1]).max() <= 2
    assert np.abs(taken[:, 17:, 1] - 100).max() <= 2


@pytest.mark.parametrize("name", [*SIZES, "timm:vit_tiny_patch16_224"])
def test_colours_are_normalised_as_the_weights_expect(name: str) -> None:
    model = make_backbone(name) if name not in SIZES else backbone(name)
    if name.startswith("iresnet"):
        mean, std = np.array([[127.5] * 3] * 2)
    elif name.startswith("mae"):
        mean, std = 255 * IMAGENET
    else:
        config = timm.data.resolve_model_data_config(model.model)
        mean, std = 255 * np.array([config["mean"], config["std"]])
        assert model.resampling == Image.Resampling[config["interpolation"].upper()]
    pixels = faces(model.size, 2)
    seen = model.colours.normalise(pixels)
    expected = ((pixels.numpy() - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(seen.numpy(), expected, atol=1e-5)
    assert torch.equal(model.colours.pixels(seen), pixels)


@pytest.mark.parametrize("name", SIZES)
def test_features_are_the_model_s_outputs_for_normalised_images(name: str) -> None:
    model = backbone(name)
    pixels = faces(model.size, 2)
    with torch.no_grad():
        expected = model.model(model.colours.normalise(pixels))
    assert torch.equal(features(model, pixels), expected)
    assert {key.split(".")[0] for key in model.state_dict()} == {"model"}


@pytest.mark.parametrize(
    ("name", "theirs", "made"),
    [("densenet121", "densenet121", {}), ("timm:test_vit", "test_vit", {"img_size": 64})],
)
def test_timm_s_models_are_without_their_classifier(
    name: str, theirs: str, made: dict[str, int]
) -> None:
    reference = timm.create_model(theirs, num_classes=0, **made).eval()
    model = load_backbone(name, "random", 64)
    reference.load_state_dict(model.model.state_dict())
    with torch.no_grad():
        expected = reference(model.colours.normalise(faces(64, 2)))
    assert torch.equal(features(model, faces(64, 2)), expected)


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [
        ("iresnet18", 112, 512),
        ("densenet121", 224, 1024),
        ("mae_vit_mini", 64, 128),
        ("timm:resnet10t", 176, 512),
        ("timm:resnet10t.c3_in1k", 176, 512),
        ("timm:test_vit", 160, 64),
    ],
)
def test_default_sizes_and_widths(name: str, size: int, width: int) -> None:
    model = make_backbone(name)
    assert (model.name, model.size, model.width) == (name, size, width)


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [("timm:xcit_nano_12_p16_224", 112, 128), ("timm:efficientvit_m0", 64, 192)],
)
def test_models_whose_patch_size_is_one_number(name: str, size: int, width: int) -> None:
    assert make_backbone(name, size).width == width


def test_all_names_have_a_size() -> None:
    assert {name: recipe.size for name, recipe in BACKBONES.items()} == {
        **dict.fromkeys(("iresnet18", "iresnet34", "iresnet50", "iresnet100"), 112),
        **dict.fromkeys(("densenet121", "mae_vit_base", "mae_vit_large"), 224),
        "mae_vit_mini": 64,
    }


def test_a_model_takes_its_own_parameters() -> None:
    assert make_backbone("iresnet18", 16, dropout=0.4).model.dropout.p == 0.4
    assert make_backbone("timm:test_vit", 64, drop_rate=0.4).model.head_drop.p == 0.4
    with pytest.raises(TypeError, match="dropuot"):
        make_backbone("iresnet18", 16, dropuot=0.4)
    with pytest.raises(TypeError, match="dropuot"):
        make_backbone("timm:resnet10t", 64, dropuot=0.4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("iresnet", "backbone = 'iresnet' is unknown: did you mean 'iresnet"),
        ("densnet121", "did you mean 'densenet121'"),
        ("mae_vit_bas", "did you mean 'mae_vit_base'"),
        ("resnet18", "did you mean 'timm:resnet18'"),
        ("zzz", "known are iresnet18, .*, mae_vit_mini, timm:<model>"),
        ("timm:resnet10", "'timm:resnet10' is unknown; nearest are timm:resnet10t, timm:"),
        ("timm:", "'timm:' is unknown; nearest are timm:"),
        ("timm:resnet10t.c3_in2k", "nearest are timm:resnet10t.c3_in1k, "),
        ("timm:hf-hub:someone/something", "nearest are timm:"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_backbone(name, "random")
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("iresnet18", 100, "iresnet18: size = 100 is refused: .* multiple of 16 .* such as 96"),
        ("mae_vit_mini", 20, "mae_vit_mini: size = 20 is refused: .* of a patch's 16 pixels"),
        ("timm:test_vit", 100, "timm:test_vit: size = 100 is refused: .* of a patch's 16 pixels"),
        ("timm:vit_tiny_patch16_224", 8, "size = 8 is refused: .* of a patch's 16 pixels"),
        (
            "densenet121",
            8,
            r"densenet121: size = 8 is refused \(.*\): its default size is 224 pixels",
        ),
        ("timm:resnet10t", 0, r"size = 0 is refused \(.*\): its default size is 176 pixels"),
        ("timm:resnet10t", -5, r"size = -5 is refused \(.*\): its default size is 176 pixels"),
        ("timm:efficientvit_m0", 70, "m0: size = 70 is refused: .* of a patch's 16 pixels"),
        (
            "timm:xcit_nano_12_p16_224",
            100,
            r"size = 100 is refused \(.*\): its default size is 224 pixels",
        ),
        (
            "timm:efficientformer_l1",
            112,
            r"size = 112 is refused \(.*\): its default size is 224 pixels",
        ),
    ],
)
def test_a_size_that_does_not_work_is_refused(name: str, size: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        make_backbone(name, size)
    assert len(str(error.value).splitlines()) == 1


def test_a_model_without_one_vector_an_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = (127.5, 127.5, 127.5)
    maps = Recipe(lambda size: nn.Identity(), 8, grey, grey, Image.Resampling.BILINEAR)
    monkeypatch.setitem(BACKBONES, "maps", maps)
    with pytest.raises(InputError, match="backbone maps: it does not return one vector"):
        make_backbone("maps")
