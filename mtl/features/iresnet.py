"""IResNet: the improved ResNet of ArcFace for aligned faces (Deng et al. 2019, Duta et al. 2020).

Parameters have the names of the reference implementation, so its weights load unchanged.

Shapes: B images of S x S pixels, C and D channels, H x W positions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mtl.errors import InputError

WIDTHS = (64, 128, 256, 512)
"""Channels of the four stages; the last number is also the number of features."""
SHRINKS = 2 ** len(WIDTHS)
"""Height of an image divided by the height of the last feature map; each stage halves the height.

The same holds for the width.
"""

IRESNETS: dict[str, tuple[int, int, int, int]] = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
"""Number of blocks in each of the four stages, by the name of the IResNet."""


class Block(nn.Module):
    """Residual block bn3(conv2(prelu(bn2(conv1(bn1(x)))))) + shortcut, with no final activation.

    The shortcut is the identity if the stride is 1 and C = D, else a 1 x 1 convolution with the
    stride and a batch norm.

    Args:
        channels: Channels C of the input.
        width: Channels D of the output.
        stride: Stride of the second convolution.
    """

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the block's output for feature maps ``x``, with ``width`` channels."""
        inner = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        out: Tensor = self.bn3(self.conv2(inner)) + self.downsample(x)
        return out


class IResNet(nn.Module):
    """IResNet with a stem, four stages of blocks and a linear layer to 512 features.

    Weights are initialised by torch's defaults. The reference draws convolutions with standard
    deviation 0.1, but then the outputs of an untrained network overflow in evaluation mode.

    Args:
        layers: Number of blocks in each of the four stages.
        size: Side of an image in pixels, a multiple of 16.
        dropout: Dropout probability before the linear layer.

    Raises:
        InputError: ``size`` is no multiple of 16.
    """

    def __init__(self, layers: Sequence[int], size: int = 112, dropout: float = 0.0) -> None:
        super().__init__()
        if size < SHRINKS or size % SHRINKS:
            nearest = max(1, round(size / SHRINKS)) * SHRINKS
            raise InputError(
                f"size = {size} is refused: an IResNet's must be a multiple of {SHRINKS} pixels, "
                f"such as {nearest}"
            )
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = nn.PReLU(WIDTHS[0])
        before = (WIDTHS[0], *WIDTHS[:-1])
        self.layer1, self.layer2, self.layer3, self.layer4 = map(_stage, before, WIDTHS, layers)
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(WIDTHS[-1] * (size // SHRINKS) ** 2, WIDTHS[-1])
        self.features = nn.BatchNorm1d(WIDTHS[-1])
        self.features.weight.requires_grad = False  # stays 1, as in the reference

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 512"]:
        """Return the 512 features of each normalised image, shape (images, 512)."""
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = self.dropout(torch.flatten(self.bn2(x), 1))
        features: Tensor = self.features(self.fc(x))
        return features


def _stage(channels: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        Block(channels, width, stride=2), *(Block(width, width) for _ in range(blocks - 1))
    )
