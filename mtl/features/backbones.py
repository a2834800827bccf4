"""Backbones: image models that compute one feature vector per face crop.

A new backbone is one line in ``BACKBONES``. A name that starts with ``timm:`` is any model of the
timm library. This module imports timm, which takes seconds, so modules that only train on stored
features must not import it.

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
"""Prefix of the names of backbones that are models of the timm library."""
HUB, RANDOM = "hub", "random"
"""Values of the setting ``weights``: pretrained weights from timm's hub, or random weights."""
Colour = tuple[float, float, float]
"""Red, green and blue, each in the range 0 to 255."""
State = dict[str, Tensor]
"""Tensors by their names in a state dict."""


def _unchanged(model: nn.Module, state: State, where: str) -> State:
    return state


@dataclass(frozen=True)
class Recipe:
    """Specification of a backbone: its model, image size, normalisation and weights.

    Attributes:
        build: Function that returns the untrained model, given ``size`` in pixels and keyword
            parameters of the model.
        size: Default side of an image in pixels.
        mean, std: Mean and standard deviation that normalise each colour, in the range 0 to 255.
        resampling: PIL's filter to resize an image that has another size.
        ignored_prefixes: Name prefixes of weights that a file may hold and the backbone does not
            use, such as those of a classifier.
        adapt_state: Function that converts the weights of a file to those that the model loads; its
            arguments are the model, the weights and a description for messages.
        hub: True if timm has pretrained weights of the model.
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
    """Normalisation of pixels to a model's input: (x - mean) / std for each colour.

    Args:
        mean, std: Mean and standard deviation of each colour, in the range 0 to 255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Colour, std: Colour) -> None:
        super().__init__()
        for key, colour in (("mean", mean), ("std", std)):
            self.register_buffer(key, torch.tensor(colour).view(3, 1, 1), persistent=False)

    def normalise(self, pixels: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B 3 S S"]:
        """Normalise pixels, shape (images, S, S, 3), to the model's input, (images, 3, S, S).

        S is the side of an image in pixels.
        """
        return (pixels.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std

    def pixels(self, images: Float[Tensor, "B 3 S S"]) -> UInt8[Tensor, "B S S 3"]:
        """Convert normalised images, shape (images, 3, S, S), back to pixels, (images, S, S, 3).

        The pixels are rounded, and S is the side of an image.
        """
        values = (images * self.std + self.mean).round().clamp(0, 255)
        return values.to(torch.uint8).permute(0, 2, 3, 1)


class Backbone(nn.Module):
    """Module that maps the pixels of images to one feature vector per image.

    Args:
        name: Name in ``BACKBONES``, or ``timm:`` and the name of a model of timm.
        recipe: Specification that the model was built from.
        model: Module that maps normalised images (B, 3, S, S) to features (B, F). A file of weights
            holds the state dict of this module.
        size: Side S of an image in pixels.
        width: Number F of features.
    """

    def __init__(self, name: str, recipe: Recipe, model: nn.Module, size: int, width: int) -> None:
        super().__init__()
        self.name, self.size, self.width = name, size, width
        self.resampling = recipe.resampling
        self.colours = ColourNormalisation(recipe.mean, recipe.std)
        self.model = model

    def forward(self, pixels: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B F"]:
        """Return one feature vector per image, shape (images, features).

        Args:
            pixels: Pixels of images as ``transform`` returns them.
        """
        features: Tensor = self.model(self.colours.normalise(pixels))
        return features

    def transform(self, image: Image.Image) -> UInt8[np.ndarray, "S S 3"]:
        """Return the RGB pixels of an image of any size, resized (antialiased) for the model."""
        image, size = image.convert("RGB"), (self.size, self.size)
        return np.array(image if image.size == size else image.resize(size, self.resampling))


def make_backbone(name: str, size: int | None = None, **overrides: Any) -> Backbone:
    """Return an untrained backbone in training mode; torch's global generator draws the weights.

    Args:
        name: Name in ``BACKBONES``, or ``timm:`` and the name of a model of timm.
        size: Side of an image in pixels; None takes the default of the backbone.
        overrides: Keyword parameters of the model, such as ``dropout`` of an IResNet.

    Raises:
        InputError: The name is unknown, or the model does not work at that size.
    """
    recipe = _find_recipe(name)
    size = recipe.size if size is None else size
    try:
        model = recipe.build(size=size, **overrides)
        width = _count_features(model, size)
    except InputError as error:
        raise InputError(f"backbone {name}: {error}") from None
    except (RuntimeError, ValueError, AssertionError, ArithmeticError) as error:
        if size == recipe.size:
            raise
        raise InputError(
            f"backbone {name}: size = {size} is refused ({brief(error)}): its default size is "
            f"{recipe.size} pixels"
        ) from None
    return Backbone(name, recipe, model, size, width)


def load_backbone(
    name: str, weights: str | Path, size: int | None = None, seed: int = 0
) -> Backbone:
    """Return a backbone with its weights, in evaluation mode.

    The states of torch's random generators are unchanged afterwards.

    Args:
        name: Name in ``BACKBONES``, or ``timm:`` and the name of a model of timm.
        weights: Path of a file of weights, ``hub`` for timm's pretrained weights, or ``random``.
        size: Side of an image in pixels; None takes the default of the backbone.
        seed: Seed of random weights; the same seed gives the same bits in every process.

    Raises:
        InputError: The name is unknown, the model does not work at that size, the weights cannot
            be read or belong to another architecture, or timm's hub has no such weights or cannot
            be reached.
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
    """Seed torch's CPU generator within this context and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        yield


@torch.no_grad()
def _count_features(model: nn.Module, size: int) -> int:
    """Return the number of features of a model, found by running the model on one black image.

    Raises:
        InputError: The model does not return one vector per image.
        Exception: Any error of a model that does not work at this size.
    """
    training = model.training
    features = model.eval()(torch.zeros(1, 3, size, size))
    model.train(training)
    if not isinstance(features, Tensor) or features.dim() != 2:
        raise InputError("it does not return one vector per image: choose another backbone")
    return features.shape[1]


def _iresnet(name: str) -> Recipe:
    grey = (127.5, 127.5, 127.5)
    build = partial(IResNet, IRESNETS[name])
    return Recipe(build, 112, grey, grey, Image.Resampling.BILINEAR)


def _mae(name: str) -> Recipe:
    """Return the specification of the backbone that is a masked autoencoder's encoder.

    A file of weights may also have the decoder's weights, which are ignored.
    """
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
    """Return the specification of a timm model without its classifier.

    A file of weights may also have the classifier's weights, which are ignored.
    """
    config = None
    with suppress(RuntimeError):  # raised for an unknown tag of pretrained weights
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
        ignored_prefixes=tuple(
            map(_classifier_prefix, [heads] if isinstance(heads, str) else heads)
        ),
        hub=True,
    )


def _classifier_prefix(head: str) -> str:
    """Return the prefix of the names of a classifier's weights, such as ``head.`` for ``head.fc``.

    The norm layer next to the classifier has the same prefix.
    """
    return f"{head.rpartition('.')[0] or head}."


def _build_timm(name: str, default_size: int, *, size: int, **overrides: Any) -> nn.Module:
    """Return an untrained timm model for images of ``size`` pixels.

    Models with fixed-size position embeddings take the size as ``img_size``; other models accept
    images of any size.
    """
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
    if size % patch:  # timm would ignore the pixels of an incomplete patch
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
    # The hub's client, its cache and the network raise exceptions of many types.
    except Exception as error:
        raise InputError(
            f"cannot get the weights of backbone {name} from timm's hub ({brief(error)}): give a "
            "file of weights"
        ) from None


def _resample_positions(model: nn.Module, state: State, where: str) -> State:
    """Return weights with the position embeddings resampled to the model's grid of patches.

    Embeddings of another width than the model's are left as they are; they are refused on loading.

    Args:
        model: Vision transformer that the weights are for.
        state: Weights by name.
        where: Description of the weights, for messages.

    Raises:
        InputError: The number of patches in the weights is not a square number.
    """
    own, given = model.state_dict()["pos_embed"], state.get("pos_embed")
    if given is None or given.dim() != 3 or given.shape[::2] != own.shape[::2]:
        return state  # load_weights refuses it
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
