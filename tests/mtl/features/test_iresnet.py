import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl.errors import InputError
from mtl.features.iresnet import IRESNETS, WIDTHS, Block, IResNet

LAYERS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{key}": () if key == NORM[-1] else (width,) for key in NORM}


def reference(layers: tuple[int, ...], size: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the reference implementation's weights."""
    layout = {"conv1.weight": (64, 3, 3, 3), **norm("bn1", 64), "prelu.weight": (64,)}
    before = 64
    for stage, (blocks, width) in enumerate(zip(layers, (64, 128, 256, 512), strict=True), start=1):
        for i in range(blocks):
            block = f"layer{stage}.{i}"
            layout |= norm(f"{block}.bn1", before)
            layout[f"{block}.conv1.weight"] = (width, before, 3, 3)
            layout |= norm(f"{block}.bn2", width)
            layout[f"{block}.prelu.weight"] = (width,)
            layout[f"{block}.conv2.weight"] = (width, width, 3, 3)
            layout |= norm(f"{block}.bn3", width)
            if i == 0:
                layout[f"{block}.downsample.0.weight"] = (width, before, 1, 1)
                layout |= norm(f"{block}.downsample.1", width)
            before = width
    layout |= norm("bn2", 512)
    layout |= {"fc.weight": (512, 512 * (size // 16) ** 2), "fc.bias": (512,)}
    return layout | norm("features", 512)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def randomise(module: nn.Module) -> None:
    """Randomise all weights and statistics; initial norms and statistics would have no effect."""
    generator = torch.Generator().manual_seed(5)
    for key, value in module.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            value.uniform_(-0.5, 0.5, generator=generator)


@pytest.mark.parametrize("name", LAYERS)
def test_names_and_shapes_are_the_reference_s(name: str) -> None:
    assert IRESNETS[name] == LAYERS[name]
    with torch.device("meta"):
        found = shapes(IResNet(IRESNETS[name]))
    assert found == reference(LAYERS[name], 112)
    assert list(found) == list(reference(LAYERS[name], 112))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("iresnet18", 24_025_600),
        ("iresnet34", 34_139_328),
        ("iresnet50", 43_590_848),
        ("iresnet100", 65_156_160),
    ],
)
def test_the_number_of_parameters(name: str, parameters: int) -> None:
    """The number is a golden value and a sum.

    A block has 9CD + 9D² + D parameters in convolutions and PReLU, 2C + 4D in norms and CD + 2D in
    the shortcut.
    """
    blocks = 0
    for stage, count in enumerate(LAYERS[name]):
        d = 64 * 2**stage
        c = max(64, d // 2)
        first = 9 * c * d + 9 * d * d + d + 2 * c + 4 * d + c * d + 2 * d
        blocks += first + (count - 1) * (18 * d * d + d + 6 * d)
    stem, last = 27 * 64 + 3 * 64, 2 * 512 + 25_088 * 512 + 512 + 2 * 512
    assert stem + blocks + last == parameters
    with torch.device("meta"):
        model = IResNet(IRESNETS[name])
    assert sum(p.numel() for p in model.parameters()) == parameters
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == parameters - 512


def by_hand(weights: dict[str, Tensor], x: Tensor, block: str, stride: int) -> Tensor:
    """Return the output of a block computed by torch's functions."""

    def normed(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{block}{name}.{key}"].view(1, -1, 1, 1)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    y = F.conv2d(normed(x, "bn1"), weights[f"{block}conv1.weight"], padding=1)
    y = F.prelu(normed(y, "bn2"), weights[f"{block}prelu.weight"])
    y = normed(F.conv2d(y, weights[f"{block}conv2.weight"], stride=stride, padding=1), "bn3")
    if f"{block}downsample.0.weight" in weights:
        x = F.conv2d(x, weights[f"{block}downsample.0.weight"], stride=stride)
        x = normed(x, "downsample.1")
    return y + x


@pytest.mark.parametrize(
    ("channels", "width", "stride"), [(6, 6, 1), (6, 6, 2), (6, 10, 2), (6, 10, 1)]
)
def test_a_block_equals_torch_s_functions(channels: int, width: int, stride: int) -> None:
    block = Block(channels, width, stride).eval()
    randomise(block)
    assert isinstance(block.downsample, nn.Identity) == (stride == 1 and channels == width)
    x = torch.randn(3, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = by_hand(block.state_dict(), x, "", stride)
    torch.testing.assert_close(block(x), expected, atol=1e-4, rtol=1e-4)


def test_the_whole_equals_torch_s_functions() -> None:
    model = IResNet((1, 2, 1, 1), size=32).double().eval()
    randomise(model)
    weights = model.state_dict()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()

    def normed(x: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(weights[f"{name}.{key}"] for key in keys), eps=1e-5)

    x = F.conv2d(images, weights["conv1.weight"], padding=1)
    x = F.prelu(normed(x, "bn1"), weights["prelu.weight"])
    for block, stride in (("1.0", 2), ("2.0", 2), ("2.1", 1), ("3.0", 2), ("4.0", 2)):
        x = by_hand(weights, x, f"layer{block}.", stride)
    x = F.linear(normed(x, "bn2").reshape(2, -1), weights["fc.weight"], weights["fc.bias"])
    expected = normed(x, "features")
    assert expected.abs().max() > 1
    torch.testing.assert_close(model(images), expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("size", [16, 32, 112])
def test_512_features_at_any_multiple_of_16(size: int) -> None:
    model = IResNet((1, 1, 1, 1), size).eval()
    assert model(torch.zeros(2, 3, size, size)).shape == (2, WIDTHS[-1])
    assert model.fc.in_features == 512 * (size // 16) ** 2


@pytest.mark.parametrize(("size", "fix"), [(100, 96), (8, 16), (0, 16), (-16, 16), (113, 112)])
def test_another_size_is_refused_with_a_fix(size: int, fix: int) -> None:
    with pytest.raises(InputError, match=f"size = {size} is refused: .*multiple of 16.*as {fix}$"):
        IResNet((1, 1, 1, 1), size)


def test_dropout_acts_in_training_only() -> None:
    model = IResNet((1, 1, 1, 1), 32, dropout=0.5)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            layer.eval()
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_the_scale_of_features_stays_1() -> None:
    model = IResNet((1, 1, 1, 1), 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=0.1)
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    optimizer.step()
    assert torch.equal(model.features.weight, torch.ones(512))
    assert model.features.bias.any()


@pytest.mark.parametrize("name", ["iresnet18", "iresnet100"])
def test_untrained_features_are_finite_and_tell_images_apart(name: str) -> None:
    model = IResNet(IRESNETS[name], 32).eval()
    with torch.no_grad():
        features = model(torch.rand(4, 3, 32, 32) * 2 - 1)
    assert features.isfinite().all()
    assert (features.std(dim=0) > 1e-4).float().mean() > 0.9
