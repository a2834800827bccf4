"""Masked autoencoder (MAE): a ViT that is pretrained on images without labels (He et al. 2022).

The encoder encodes the visible patches of an image, a quarter by default, and a small decoder
predicts the pixels of the masked patches from them. The features of a face are the mean of the
encoder's patch tokens. Parameters have the names of the reference implementation.

Shapes: B images of S x S pixels, L patches of P x P pixels, K visible patches, D encoder width,
Q = P x P x 3 pixel values of a patch, N = 1 + L or 1 + K tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from timm.layers.norm import LayerNorm
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mtl.errors import InputError

EPSILON = 1e-6
"""Constant added to the variance of a patch's pixels before its square root is taken."""


@dataclass(frozen=True)
class ViTShape:
    """Sizes of a masked autoencoder.

    Attributes:
        patch: Side P of a patch in pixels.
        width, depth, heads: Width of a token, number of blocks and number of attention heads of a
            block in the encoder.
        decoder_width, decoder_depth, decoder_heads: The same three sizes in the decoder.
        size: Default side S of an image in pixels.
    """

    patch: int
    width: int
    depth: int
    heads: int
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    size: int = 224


VITS = {
    "mae_vit_base": ViTShape(patch=16, width=768, depth=12, heads=12),
    "mae_vit_large": ViTShape(patch=16, width=1024, depth=24, heads=16),
    # For small images and few cores.
    "mae_vit_mini": ViTShape(
        patch=16,
        width=128,
        depth=4,
        heads=4,
        decoder_width=64,
        decoder_depth=2,
        decoder_heads=4,
        size=64,
    ),
}
"""Sizes of the masked autoencoders, by the name of the backbone."""


class ViTEncoder(nn.Module):
    """ViT encoder with fixed sine-cosine position embeddings.

    Args:
        shape: Sizes of the encoder.
        size: Side S of an image in pixels.

    Raises:
        InputError: ``size`` is no multiple of the side of a patch.
    """

    def __init__(self, shape: ViTShape, size: int) -> None:
        super().__init__()
        if size < shape.patch or size % shape.patch:
            raise InputError(
                f"size = {size} is refused: it must be a multiple of a patch's {shape.patch} pixels"
            )
        self.shape, self.size = shape, size
        self.patches = (size // shape.patch) ** 2
        self.patch_embed = PatchEmbed(size, shape.patch, 3, shape.width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = _positions(shape.width, size // shape.patch)
        self.blocks = _blocks(shape.width, shape.depth, shape.heads)
        self.norm = LayerNorm(shape.width)
        self.apply(_init_linear)
        _init_patch_embedding(self.patch_embed)
        nn.init.normal_(self.cls_token, std=0.02)

    def tokens(
        self, images: Float[Tensor, "B 3 S S"], kept: Int[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Encode images: return the class token and then the tokens of the visible patches.

        The result has the shape (images, 1 + visible patches, token width).

        Args:
            images: Normalised images.
            kept: Indices of the visible patches, in the order of the tokens; None for all patches.
        """
        patches = self.patch_embed(images) + self.pos_embed[:, 1:]
        if kept is not None:
            patches = _gather_tokens(patches, kept)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        x = torch.cat([first, patches], dim=1)
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed

    def forward(self, images: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Return the mean of each image's patch tokens as its features, (images, token width)."""
        return self.tokens(images)[:, 1:].mean(dim=1)


class MaskedAutoencoder(ViTEncoder):
    """Masked autoencoder: a ViT encoder with the decoder that is used in its pretraining.

    Args:
        shape: Sizes of encoder and decoder.
        size: Side S of an image in pixels.
        mask_ratio: Share of the patches that are masked.
        normalise_pixels: True if the decoder predicts the pixels of each patch after subtraction of
            their mean and division by their standard deviation.

    Raises:
        InputError: ``size`` is no multiple of the side of a patch, or ``mask_ratio`` leaves no
            visible or no masked patch.
    """

    def __init__(
        self,
        shape: ViTShape,
        size: int,
        mask_ratio: float = 0.75,
        normalise_pixels: bool = True,
    ) -> None:
        super().__init__(shape, size)
        self.visible = int(self.patches * (1 - mask_ratio))
        if not 0 < self.visible < self.patches:
            raise InputError(
                f"mask_ratio = {mask_ratio:g} is refused: of {self.patches} patches it leaves "
                f"{self.visible}; at least one must stay and one go"
            )
        self.normalise_pixels = normalise_pixels
        width = shape.decoder_width
        self.decoder_embed = nn.Linear(shape.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = _positions(width, size // shape.patch)
        self.decoder_blocks = _blocks(width, shape.decoder_depth, shape.decoder_heads)
        self.decoder_norm = LayerNorm(width)
        self.decoder_pred = nn.Linear(width, 3 * shape.patch**2)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            part.apply(_init_linear)
        nn.init.normal_(self.mask_token, std=0.02)

    def losses(
        self, images: Float[Tensor, "B 3 S S"], noise: Float[Tensor, "B L"]
    ) -> Float[Tensor, " B"]:
        """Return the loss of each image: the mean squared error over its masked patches.

        Args:
            images: Normalised images.
            noise: Random number of each patch; the patches with the smallest numbers are visible.
        """
        predicted, removed = self.predict(images, noise)
        target = patchify(images, self.shape.patch)
        if self.normalise_pixels:
            mean, deviation = patch_statistics(target)
            target = (target - mean) / deviation
        each = (predicted.float() - target).square().mean(dim=-1)
        return (each * removed).sum(dim=1) / removed.sum(dim=1)

    def predict(
        self, images: Float[Tensor, "B 3 S S"], noise: Float[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B L Q"], Bool[Tensor, "B L"]]:
        """Return the predicted pixels of each patch, and a mask that is True for masked patches.

        Args:
            images: Normalised images.
            noise: Random number of each patch; the patches with the smallest numbers are visible.

        Returns:
            The pixels, shape (images, patches, pixel values of a patch), and the mask, (images,
            patches). With ``normalise_pixels`` the pixels are relative to the patch's mean and
            deviation.
        """
        shuffled = noise.argsort(dim=1, stable=True)
        place = shuffled.argsort(dim=1)
        visible = self.decoder_embed(self.tokens(images, shuffled[:, : self.visible]))
        masked = self.mask_token.expand(len(visible), self.patches - self.visible, -1)
        tokens = torch.cat([visible[:, 1:], masked.to(visible.dtype)], dim=1)
        patches = _gather_tokens(tokens, place)
        x = torch.cat([visible[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:], place >= self.visible

    @torch.inference_mode()
    def reconstruct(
        self, images: Float[Tensor, "B 3 S S"], noise: Float[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B 3 S S"]]:
        """Return two versions of each image: masked patches set to 0, and masked patches predicted.

        With ``normalise_pixels`` the predictions are scaled back by the true mean and standard
        deviation of each masked patch.

        Args:
            images: Normalised images.
            noise: Random number of each patch; the patches with the smallest numbers are visible.
        """
        predicted, removed = self.predict(images, noise)
        patches, predicted = patchify(images, self.shape.patch), predicted.float()
        if self.normalise_pixels:
            mean, deviation = patch_statistics(patches)
            predicted = predicted * deviation + mean
        hidden = removed[..., None]
        masked = unpatchify(patches.masked_fill(hidden, 0), self.shape.patch)
        return masked, unpatchify(torch.where(hidden, predicted, patches), self.shape.patch)


def patchify(images: Float[Tensor, "B 3 S S"], patch: int) -> Float[Tensor, "B L Q"]:
    """Divide images into square patches, in the order of rows.

    Args:
        images: Images, shape (images, 3, side, side).
        patch: Side of a patch in pixels.

    Returns:
        The patches, shape (images, patches, values). The values of a patch are its pixels in the
        order of rows, with the three colours of a pixel next to each other.
    """
    side = images.shape[-1] // patch
    grid = images.reshape(len(images), 3, side, patch, side, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(len(images), side**2, -1)


def unpatchify(patches: Float[Tensor, "B L Q"], patch: int) -> Float[Tensor, "B 3 S S"]:
    """Join patches to images of shape (images, 3, side, side): the inverse of ``patchify``.

    Args:
        patches: Patches as ``patchify`` returns them, shape (images, patches, values).
        patch: Side of a patch in pixels.
    """
    side = int(patches.shape[1] ** 0.5)
    grid = patches.reshape(len(patches), side, side, patch, patch, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, side * patch, side * patch)


def patch_statistics(
    patches: Float[Tensor, "B L Q"],
) -> tuple[Float[Tensor, "B L 1"], Float[Tensor, "B L 1"]]:
    """Return the mean and the standard deviation of the pixel values of each patch.

    The standard deviation is sqrt(unbiased variance + 1e-6).

    Args:
        patches: Patches, shape (images, patches, values).

    Returns:
        Both statistics, each of shape (images, patches, 1).
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def sincos_positions(width: int, side: int) -> Float[np.ndarray, "N D"]:
    """Return the sine-cosine position embeddings of a class token and of side x side patches.

    The result has the shape (1 + side², width). The class token's embedding is 0. In a patch's
    embedding the first half encodes the column and the second half the row. Each half is the sines
    and then the cosines of position times 1 / 10000^(i / (D / 4)) for i = 0 ... D / 4 - 1, in the
    order of the reference implementation.

    Args:
        width: Embedding width D, a multiple of 4.
        side: Number of patches in a row of the image.

    Raises:
        ValueError: ``width`` is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"width = {width} must be a multiple of 4")
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.divmod(np.arange(side**2), side)
    angles = [place[:, None] * frequencies for place in (columns, rows)]
    parts = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.concatenate([np.zeros((1, width)), np.concatenate(parts, axis=1)])


def _positions(width: int, side: int) -> nn.Parameter:
    positions = torch.from_numpy(sincos_positions(width, side)).float()[None]
    return nn.Parameter(positions, requires_grad=False)


def _blocks(width: int, depth: int, heads: int) -> nn.ModuleList:
    return nn.ModuleList(
        Block(width, heads, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)
    )


def _init_linear(module: nn.Module) -> None:
    """Initialise a linear layer as the reference does: Xavier uniform weights and zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _init_patch_embedding(embed: PatchEmbed) -> None:
    """Initialise the patch convolution in the same way as a linear layer on a patch's pixels."""
    nn.init.xavier_uniform_(embed.proj.weight.view(len(embed.proj.weight), -1))


def _gather_tokens(
    tokens: Float[Tensor, "B L D"], places: Int[Tensor, "B K"]
) -> Float[Tensor, "B K D"]:
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
