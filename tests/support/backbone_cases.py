"""Small backbones, their inputs, and comparison functions for tests."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl.features.backbones import Backbone, load_backbone

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
    """Return smooth random images, all different, (count, size, size, 3)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator) * 255
    return F.interpolate(coarse, size=(size, size)).permute(0, 2, 3, 1).to(torch.uint8)


@torch.no_grad()
def features(model: Backbone, pixels: Tensor) -> Tensor:
    """Return a backbone's features without gradients."""
    result: Tensor = model(pixels)
    return result


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Return True if two modules have the same state."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
