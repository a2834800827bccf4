import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mtl.errors import InputError
from mtl.features.backbones import (
    BACKBONES,
    Backbone,
    Recipe,
    load_backbone,
    make_backbone,
)
from mtl.features.mae import VITS, MaskedAutoencoder

SIZES = {
    "iresnet18": 32,
    "densenet121": 32,
    "mae_vit_mini": 32,
    "timm:resnet10t": 64,
    "timm:test_vit": 64,
}
WIDTH = {
    "iresnet18": 512,
    "densenet121": 1024,
    "mae_vit_mini": 128,
    "timm:resnet10t": 512,
    "timm:test_vit": 64,
}
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


@lru_cache
def backbone(name: str) -> Backbone:
    return load_backbone(name, "random", SIZES[name])


def faces(size: int, count: int = 5, seed: int = 0) -> Tensor:
    """Smooth images, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 255
    return F.interpolate(coarse, size=(size, size)).permute(0, 2, 3, 1).to(torch.uint8)


@torch.no_grad()
def features(of: Backbone, pixels: Tensor) -> Tensor:
    result: Tensor = of(pixels)
    return result


def equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


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
    stripes[:, ::2] = 200  # finer than a pixel: their mean is left
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
def test_features_are_the_model_s_of_normalised_images(name: str) -> None:
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
def test_sizes_and_widths_unless_told_otherwise(name: str, size: int, width: int) -> None:
    model = make_backbone(name)
    assert (model.name, model.size, model.width) == (name, size, width)


@pytest.mark.parametrize(
    ("name", "size", "width"),
    [("timm:xcit_nano_12_p16_224", 112, 128), ("timm:efficientvit_m0", 64, 192)],
)
def test_models_that_give_a_patch_by_one_number(name: str, size: int, width: int) -> None:
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


@pytest.mark.parametrize("name", SIZES)
def test_random_weights_are_their_seed_s_and_leave_the_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_backbone(name, "random", SIZES[name], seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(first, load_backbone(name, "random", SIZES[name], seed=3))
    assert not equal(first, load_backbone(name, "random", SIZES[name], seed=4))


def test_random_weights_are_the_same_in_another_process(tmp_path: Path) -> None:
    """And what trains on features imports no timm, which takes seconds."""
    names = {"iresnet18": 16, "timm:test_vit": 64}
    program = f"""
import sys, torch, mtl.ensemble, mtl.training
assert "timm" not in sys.modules
from mtl.features.backbones import load_backbone
torch.rand(3)
sizes = {names}
weights = [load_backbone(name, "random", sizes[name], seed=7).state_dict() for name in sizes]
torch.save(weights, sys.argv[1])
"""
    file = tmp_path / "weights.pth"
    subprocess.run([sys.executable, "-c", program, file], check=True)
    for (name, size), there in zip(names.items(), torch.load(file, weights_only=True), strict=True):
        here = load_backbone(name, "random", size, seed=7).state_dict()
        assert there.keys() == here.keys()
        assert all(torch.equal(there[key], here[key]) for key in here)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "module.", "half"])
@pytest.mark.parametrize("name", SIZES)
def test_what_is_saved_is_loaded(tmp_path: Path, name: str, kind: str) -> None:
    saved = load_backbone(name, "random", SIZES[name], seed=5)
    state = saved.model.state_dict()
    if kind == "torch":
        torch.save({"model": state, "epoch": 1}, tmp_path / "w")
    elif kind == "module.":
        torch.save({"module." + key: value for key, value in state.items()}, tmp_path / "w")
    elif kind == "half":
        saved.model.half().float()  # so that nothing is lost in the file
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
        save_file(state, tmp_path / "w")
    else:
        save_file(state, tmp_path / "w")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    loaded = load_backbone(name, tmp_path / "w", SIZES[name])
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(saved, loaded)
    assert all(v.dtype != torch.float16 for v in loaded.state_dict().values())
    assert not loaded.training
    assert torch.equal(features(saved, faces(saved.size)), features(loaded, faces(saved.size)))
    assert not equal(loaded, backbone(name))


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("densenet121", 2),
        ("timm:resnet10t", 2),
        ("timm:test_vit", 2),
        # Theirs has a norm of its own, or a layer before it.
        ("timm:levit_128s", 14),
        ("timm:efficientvit_m0", 7),
        ("timm:caformer_s18", 6),
    ],
)
def test_a_classifier_in_the_file_is_left_there(tmp_path: Path, name: str, tensors: int) -> None:
    whole = timm.create_model(name.removeprefix("timm:"), num_classes=9)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    loaded = load_backbone(name, tmp_path / "w.pth")
    own = loaded.model.state_dict()
    assert len(own) == len(whole.state_dict()) - tensors
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in own.items())


def test_names_may_begin_as_those_of_something_around_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timm's qwen3_vit and others keep all of theirs below ``encoder``."""

    def build(size: int) -> nn.Module:
        model = nn.Sequential(nn.Flatten())
        model.add_module("encoder", nn.Linear(3 * size**2, 5))
        return model

    grey = (127.5, 127.5, 127.5)
    monkeypatch.setitem(BACKBONES, "own", Recipe(build, 8, grey, grey, Image.Resampling.BILINEAR))
    saved = load_backbone("own", "random", seed=5)
    save_file(saved.model.state_dict(), tmp_path / "w")
    assert equal(saved, load_backbone("own", tmp_path / "w"))


@pytest.mark.parametrize("decoder", [True, False])
def test_a_masked_autoencoder_is_read_with_and_without_its_decoder(
    tmp_path: Path, decoder: bool
) -> None:
    whole = MaskedAutoencoder(VITS["mae_vit_mini"], 64).state_dict()
    extra = {key for key in whole if key.startswith(("decoder_", "mask_token"))}
    assert extra
    state = whole if decoder else {k: v for k, v in whole.items() if k not in extra}
    torch.save({"model": state}, tmp_path / "w.pth")
    own = load_backbone("mae_vit_mini", tmp_path / "w.pth").model.state_dict()
    assert own.keys() == whole.keys() - extra
    assert all(torch.equal(own[key], whole[key]) for key in own)


def test_positions_of_another_size_are_resampled(tmp_path: Path) -> None:
    """Smooth positions stay what they are; the class token's is none of the grid."""
    saved = load_backbone("mae_vit_mini", "random", 256).model.state_dict()
    across = torch.linspace(-1, 1, 16)
    ramp = across.view(1, 16, 1).expand(16, 16, 128).reshape(1, 256, 128)
    saved["pos_embed"] = torch.cat([torch.full((1, 1, 128), 9.0), ramp], dim=1)
    save_file(saved, tmp_path / "w.safetensors")
    loaded = load_backbone("mae_vit_mini", tmp_path / "w.safetensors", 128).model.state_dict()
    assert loaded["pos_embed"].shape == (1, 65, 128)
    assert (loaded["pos_embed"][:, 0] == 9).all()
    grid = loaded["pos_embed"][0, 1:].view(8, 8, 128)
    expected = across.view(8, 2).mean(dim=1).view(1, 8, 1).expand(8, 8, 128)
    torch.testing.assert_close(grid[:, 1:-1], expected[:, 1:-1], atol=0.02, rtol=0)
    rest = loaded.keys() - {"pos_embed"}
    assert all(torch.equal(loaded[key], saved[key]) for key in rest)


def test_positions_that_are_no_square_are_refused(tmp_path: Path) -> None:
    saved = backbone("mae_vit_mini").model.state_dict()
    saved = {**saved, "pos_embed": torch.zeros(1, 1 + 15, 128)}
    save_file(saved, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="pos_embed has 15 patches, which are no square"):
        load_backbone("mae_vit_mini", tmp_path / "w.safetensors", 64)


@pytest.mark.parametrize(
    ("name", "other", "size", "message"),
    [
        (
            "iresnet18",
            "densenet121",
            32,
            r"fit: conv1\.weight, .*184 more are missing; features\.dense.*more are unknown",
        ),
        (
            "densenet121",
            "iresnet18",
            32,
            r"fit: features\.conv0\.weight, .* 722 more are missing; .* 184 more are unknown",
        ),
        (
            "mae_vit_mini",
            "timm:test_vit",
            64,
            r"cls_token \(1, 1, 64\) for \(1, 1, 128\), .* of another shape",
        ),
        (
            "timm:test_vit",
            "mae_vit_mini",
            64,
            r"fit: blocks\.4\..* are missing; .* of another shape",
        ),
        ("iresnet18", "iresnet34", 32, r"^weights .*w of backbone iresnet18 do not fit: layer1\.2"),
        ("iresnet34", "iresnet18", 32, r"layer1\.2\.bn1\.weight, .*more are missing; they are"),
    ],
)
def test_weights_of_another_architecture_are_refused(
    tmp_path: Path, name: str, other: str, size: int, message: str
) -> None:
    save_file(make_backbone(other, size).model.state_dict(), tmp_path / "w")
    with pytest.raises(InputError, match=message) as error:
        load_backbone(name, tmp_path / "w", size)
    assert str(error.value).endswith("probably weights of another architecture or image size")


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    save_file(make_backbone("iresnet18", 48).model.state_dict(), tmp_path / "w")
    message = r"fit: fc\.weight \(512, 4608\) for \(512, 2048\) is of another shape; they are"
    with pytest.raises(InputError, match=message):
        load_backbone("iresnet18", tmp_path / "w", 32)


def test_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("not weights at all")
    with pytest.raises(InputError, match=r"w\.pth is no file of weights"):
        load_backbone("timm:test_vit", tmp_path / "w.pth", 64)
    with pytest.raises(InputError, match=r"v\.pth do not exist"):
        load_backbone("timm:test_vit", str(tmp_path / "v.pth"), 64)


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
        ("densenet121", 8, r"densenet121: size = 8 is refused \(.*\): its own is 224 pixels"),
        ("timm:resnet10t", 0, r"size = 0 is refused \(.*\): its own is 176 pixels"),
        ("timm:resnet10t", -5, r"size = -5 is refused \(.*\): its own is 176 pixels"),
        ("timm:efficientvit_m0", 70, "m0: size = 70 is refused: .* of a patch's 16 pixels"),
        ("timm:xcit_nano_12_p16_224", 100, r"size = 100 is refused \(.*\): its own is 224 pixels"),
        ("timm:efficientformer_l1", 112, r"size = 112 is refused \(.*\): its own is 224 pixels"),
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
    with pytest.raises(InputError, match="backbone maps: it does not make one vector"):
        make_backbone("maps")


@pytest.mark.parametrize("name", ["iresnet18", "mae_vit_mini"])
def test_what_is_not_on_the_hub_is_said(name: str) -> None:
    with pytest.raises(InputError, match=f"backbone {name} has no weights on timm's hub: give a"):
        load_backbone(name, "hub", SIZES[name])


def test_the_hub_s_absence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host.\nMany lines.")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable)
    for name in ("densenet121", "timm:resnet10t"):
        message = f"cannot get .* {name} from timm's hub \\(no route to host\\): give a file"
        with pytest.raises(InputError, match=message):
            load_backbone(name, "hub", SIZES[name])


def test_models_without_weights_on_the_hub_are_said() -> None:
    with pytest.raises(InputError, match=r"timm's hub \(No pretrained weights exist for test_vit4"):
        load_backbone("timm:test_vit4", "hub", 64)


def test_weights_come_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What would be downloaded lies here."""
    whole = timm.create_model("test_vit", num_classes=1000)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(
        "timm.models._hub.hf_hub_download", lambda *_, **__: str(tmp_path / "model.safetensors")
    )
    loaded = load_backbone("timm:test_vit", "hub")
    own = loaded.model.state_dict()
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in own.items())
    assert not loaded.training
    # timm resamples positions itself.
    assert load_backbone("timm:test_vit", "hub", 64).size == 64
