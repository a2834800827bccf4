"""Tests of backbone weights: random, from files and from timm's hub."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import timm.data
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from mtl.errors import InputError
from mtl.features.backbones import BACKBONES, Recipe, load_backbone, make_backbone
from mtl.features.mae import VITS, MaskedAutoencoder
from tests.support.backbone_cases import SIZES, backbone, equal, faces, features
from tests.support.covering import covering


@pytest.mark.parametrize("name", SIZES)
def test_random_weights_depend_on_their_seed_only_and_keep_the_generator_s_state(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_backbone(name, "random", SIZES[name], seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(first, load_backbone(name, "random", SIZES[name], seed=3))
    assert not equal(first, load_backbone(name, "random", SIZES[name], seed=4))


def test_random_weights_are_the_same_in_another_process(tmp_path: Path) -> None:
    """The program also checks that training code does not import timm, which takes seconds."""
    names = {"iresnet18": 16, "timm:test_vit": 64}
    program = f"""
import sys, torch, mtl.ensemble, mtl.training.trainer
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


@pytest.mark.parametrize(
    ("name", "kind"), covering(SIZES, ["safetensors", "torch", "module.", "half"])
)
def test_saved_weights_are_loaded(tmp_path: Path, name: str, kind: str) -> None:
    saved = load_backbone(name, "random", SIZES[name], seed=5)
    state = saved.model.state_dict()
    if kind == "torch":
        torch.save({"model": state, "epoch": 1}, tmp_path / "w")
    elif kind == "module.":
        torch.save({"module." + key: value for key, value in state.items()}, tmp_path / "w")
    elif kind == "half":
        saved.model.half().float()  # rounded, so that the file holds the exact weights
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
        # The classifiers of these models have a norm or a layer before the last one.
        ("timm:levit_128s", 14),
        ("timm:efficientvit_m0", 7),
        ("timm:caformer_s18", 6),
    ],
)
def test_a_classifier_in_the_file_is_ignored(tmp_path: Path, name: str, tensors: int) -> None:
    whole = timm.create_model(name.removeprefix("timm:"), num_classes=9)
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    loaded = load_backbone(name, tmp_path / "w.pth")
    own = loaded.model.state_dict()
    assert len(own) == len(whole.state_dict()) - tensors
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in own.items())


def test_a_model_s_own_names_may_start_with_a_prefix_of_wrappers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timm's qwen3_vit and others keep all of theirs below ``encoder``."""

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
    """Smooth position embeddings keep their values, and that of the class token is unchanged."""
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


@pytest.mark.parametrize("name", ["iresnet18", "mae_vit_mini"])
def test_a_backbone_without_weights_on_the_hub_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"backbone {name} has no weights on timm's hub: give a"):
        load_backbone(name, "hub", SIZES[name])


def test_an_unreachable_hub_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host.\nMany lines.")

    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable)
    for name in ("densenet121", "timm:resnet10t"):
        message = f"cannot get .* {name} from timm's hub \\(no route to host\\): give a file"
        with pytest.raises(InputError, match=message):
            load_backbone(name, "hub", SIZES[name])


def test_a_timm_model_without_weights_on_the_hub_is_refused() -> None:
    with pytest.raises(InputError, match=r"timm's hub \(No pretrained weights exist for test_vit4"):
        load_backbone("timm:test_vit4", "hub", 64)


def test_weights_come_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A local file replaces the download."""
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
