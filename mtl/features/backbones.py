"""Backbones: a name to the module that makes a face crop's features, its size and its width.

A new backbone is one line in ``BACKBONES``: how it is made, normalised and read. ``timm:`` before
a name is any model of timm's. This module imports timm, which takes seconds: what trains on
features alone does not import it.

Shapes: B images of S x S pixels, F features.
"""

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.helpers import to_2tuple
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from mtl.errors import InputError, brief
from mtl.features.iresnet import IRESNETS, IResNet
from mtl.features.mae import VITS, ViTEncoder
from mtl.features.weights import load_weights, read_weights
from mtl.strict import did_you_mean

TIMM = "timm:"
HUB, RANDOM = "hub", "random"
Colour = tuple[float, float, float]
State = dict[str, Tensor]


def _unchanged(model: nn.Module, state: State, where: str) -> State:
    return state


@dataclass(frozen=True)
class Recipe:
    """How a backbone is made.

    Attributes:
        build: The untrained model, from ``size`` in pixels and its own keyword parameters.
        size: Side of an image in pixels, unless told otherwise.
        mean, std: What a colour is normalised by, in 255ths (pixel values).
        resampling: How images of another size are resized.
        ignored_prefixes: How the names of weights begin that a file may have beside the features'.
        adapt_state: What is done to a file's weights before they are loaded.
        hub: Whether timm has weights of it.
    """

    build: Callable[..., nn.Module]
    size: int
    mean: Colour
    std: Colour
    resampling: Image.Resampling
    ignored_prefixes: tuple[str, ...] = ()
    adapt_state: Callable[[nn.Module, State, str], State] = _unchanged
    hub: bool = False


class ColourNormalisation(nn.Module):
    """What a backbone sees of pixels: (x - mean) / std of each colour.

    Args:
        mean, std: In 255ths, as ``Recipe``'s.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Colour, std: Colour) -> None:
        super().__init__()
        for key, colour in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(colour).view(3, 1, 1), persistent=False)

    def normalise(self, pixels: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B 3 S S"]:
        """Pixels as images for a model."""
        return (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std

    def pixels(self, images: Float[Tensor, "B 3 S S"]) -> UInt8[Tensor, "B S S 3"]:
        """Back: the nearest pixels of images."""
        values = (images * self.std + self.mean).round().clamp(0, 255)
        return values.to(torch.uint8).permute(0, 2, 3, 1)


class Backbone(nn.Module):
    """Pixels to features.

    Args:
        name: As in ``make_backbone``.
        recipe: What it was made by.
        model: Normalised float images (B, 3, S, S) to features (B, F); its state dict is what a
            file of weights holds.
        size: S, in pixels.
        width: F.
    """

    def __init__(self, name: str, recipe: Recipe, model: nn.Module, size: int, width: int) -> None:
        super().__init__()
        self.name, self.size, self.width = name, size, width
        self.resampling = recipe.resampling
        self.colours = ColourNormalisation(recipe.mean, recipe.std)
        self.model = model

    def forward(self, pixels: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B F"]:
        """Features of images as ``transform`` gives them."""
        features: Tensor = self.model(self.colours.normalise(pixels))
        return features

    def transform(self, image: Image.Image) -> UInt8[np.ndarray, "S S 3"]:
        """A whole image, of any size and mode, in RGB at S x S pixels (antialiased)."""
        image, size = image.convert("RGB"), (self.size, self.size)
        return np.array(image if image.size == size else image.resize(size, self.resampling))


def make_backbone(name: str, size: int | None = None, **overrides: Any) -> Backbone:
    """An untrained backbone, in training mode, drawn from torch's generator.

    Args:
        name: Of ``BACKBONES``, or ``timm:`` and a model of timm's.
        size: Side of an image in pixels; the model's own unless given.
        overrides: Keyword parameters of the model, such as ``dropout`` of an IResNet.

    Raises:
        InputError: The name is unknown, or the model does not work at that size.
    """
    recipe = _find_recipe(name)
    size = recipe.size if size is None else size
    try:
        model = recipe.build(size=size, **overrides)
        width = _width(model, size)
    except InputError as error:
        raise InputError(f"backbone {name}: {error}") from None
    except (RuntimeError, ValueError, AssertionError, ArithmeticError) as error:
        if size == recipe.size:
            raise
        raise InputError(
            f"backbone {name}: size = {size} is refused ({brief(error)}): its own is "
            f"{recipe.size} pixels"
        ) from None
    return Backbone(name, recipe, model, size, width)


def load_backbone(
    name: str, weights: str | Path, size: int | None = None, seed: int = 0
) -> Backbone:
    """A backbone with its weights, in evaluation mode. Torch's generators are left as they were.

    Args:
        name: As in ``make_backbone``.
        weights: A file (``read_weights``), ``hub`` for timm's own, or ``random``.
        size: Side of an image in pixels; the model's own unless given.
        seed: Of random weights: the same bits in every process.

    Raises:
        InputError: As ``make_backbone``; the weights cannot be read, are another architecture's,
            or there are none on the hub or no way to it.
    """
    with seeded_generator(seed):
        backbone = make_backbone(name, size)
        if weights == HUB:
            backbone.model = _from_hub(name, backbone.size)
    if weights not in (HUB, RANDOM):
        recipe, where = _find_recipe(name), f"weights {weights} of backbone {name}"
        given = read_weights(weights, backbone.model.state_dict())
        state = recipe.adapt_state(backbone.model, given, where)
        load_weights(backbone.model, state, where, recipe.ignored_prefixes)
    return backbone.eval()


def _find_recipe(name: str) -> Recipe:
    if name.startswith(TIMM):
        return _timm(name.removeprefix(TIMM))
    if name not in BACKBONES:
        known = [TIMM + name] if timm.is_model(name) else [*BACKBONES, f"{TIMM}<model>"]
        raise InputError(f"backbone = {name!r} is unknown{did_you_mean(name, known)}")
    return BACKBONES[name]


@contextmanager
def seeded_generator(seed: int) -> Iterator[None]:
    """What is made within has weights of this seed; torch's generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed is the GPUs' too
        yield


@torch.no_grad()
def _width(model: nn.Module, size: int) -> int:
    """F, of one black image; the model's own exceptions where it does not work at this size."""
    training = model.training
    features = model.eval()(torch.zeros(1, 3, size, size))
    model.train(training)
    if not isinstance(features, Tensor) or features.dim() != 2:
        raise InputError("it does not make one vector of an image: choose another one")
    return features.shape[1]


def _iresnet(name: str) -> Recipe:
    grey = (127.5, 127.5, 127.5)
    build = partial(IResNet, IRESNETS[name])
    return Recipe(build, 112, grey, grey, Image.Resampling.BILINEAR)


def _mae(name: str) -> Recipe:
    """The encoder of a masked autoencoder; a file may hold the decoder too."""
    return Recipe(
        partial(ViTEncoder, VITS[name]),
        VITS[name].size,
        _pixels(IMAGENET_DEFAULT_MEAN),
        _pixels(IMAGENET_DEFAULT_STD),
        Image.Resampling.BICUBIC,
        ignored_prefixes=("decoder_", "mask_token"),
        adapt_state=_resample_positions,
    )


def _timm(name: str) -> Recipe:
    """A model of timm's without its classifier, which a file may hold."""
    config = None
    with suppress(RuntimeError):  # a tag it does not know
        config = timm.get_pretrained_cfg(name)
    if config is None:
        known = [TIMM + each for each in timm.list_models() + timm.list_pretrained()]
        near = difflib.get_close_matches(TIMM + name, known, n=3, cutoff=0)
        raise InputError(f"backbone = {TIMM + name!r} is unknown; nearest are {', '.join(near)}")
    heads: str | tuple[str, ...] = config.classifier or ()
    size = max(config.input_size[1:])
    return Recipe(
        partial(_build_timm, name, size),
        size,
        _pixels(config.mean),
        _pixels(config.std),
        Image.Resampling[config.interpolation.upper()],
        ignored_prefixes=tuple(map(_classifier_prefix, [heads] if isinstance(heads, str) else heads)),
        hub=True,
    )


def _classifier_prefix(head: str) -> str:
    """How the names of a classifier and its norm begin: ``head.`` of ``head.linear``."""
    return f"{head.rpartition('.')[0] or head}."


def _build_timm(name: str, default_size: int, *, size: int, **overrides: Any) -> nn.Module:
    """timm's transformers are made for a size and say so; the others take any."""
    create = partial(timm.create_model, name, num_classes=0, **overrides)
    if size == default_size:
        return create()
    try:
        model = create(img_size=size)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return create()
    patch = max(to_2tuple(getattr(getattr(model, "patch_embed", None), "patch_size", None) or 1))
    if size % patch:  # timm would leave out the last pixels
        raise InputError(
            f"size = {size} is refused: it must be a multiple of a patch's {patch} pixels"
        )
    return model


def _pixels(colour: Sequence[float]) -> Colour:
    red, green, blue = (255 * part for part in colour)
    return red, green, blue


def _from_hub(name: str, size: int) -> nn.Module:
    recipe = _find_recipe(name)
    if not recipe.hub:
        raise InputError(f"backbone {name} has no weights on timm's hub: give a file of weights")
    try:
        return recipe.build(size=size, pretrained=True)
    # Whatever the hub's client, its cache or the network raise, which is no fault of this program.
    except Exception as error:
        raise InputError(
            f"cannot get the weights of backbone {name} from timm's hub ({brief(error)}): give a "
            "file of weights"
        ) from None


def _resample_positions(model: nn.Module, state: State, where: str) -> State:
    """Positions of another image size's grid are resampled, as timm does it."""
    own, given = model.state_dict()["pos_embed"], state.get("pos_embed")
    if given is None or given.dim() != 3 or given.shape[::2] != own.shape[::2]:
        return state  # which load_weights refuses
    if math.isqrt(given.shape[1] - 1) ** 2 != given.shape[1] - 1:
        raise InputError(
            f"{where} do not fit: pos_embed has {given.shape[1] - 1} patches, which are no square"
        )
    side = math.isqrt(own.shape[1] - 1)
    return state | {"pos_embed": resample_abs_pos_embed(given, [side, side])}


BACKBONES: dict[str, Recipe] = {
    "iresnet18": _iresnet("iresnet18"),
    "iresnet34": _iresnet("iresnet34"),
    "iresnet50": _iresnet("iresnet50"),
    "iresnet100": _iresnet("iresnet100"),
    "densenet121": _timm("densenet121"),
    "mae_vit_base": _mae("mae_vit_base"),
    "mae_vit_large": _mae("mae_vit_large"),
    "mae_vit_mini": _mae("mae_vit_mini"),
}
