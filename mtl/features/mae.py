"""Masked autoencoder: a ViT that learns from faces without labels (He et al. 2022).

A quarter of a picture's patches are encoded; a small decoder tells the pixels of the others from
them. The encoder's patch tokens, averaged, are a face's features. Parameters have the reference's
names.

Shapes: B images of S x S pixels, L patches of P x P pixels, K of them visible, D encoder width.
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
"""Beside a patch's variance, and (timm's own) of the layer norms."""


@dataclass(frozen=True)
class ViTShape:
    """An encoder and its decoder.

    Attributes:
        patch: Side of a patch in pixels.
        width, depth, heads: Of the encoder.
        decoder_width, decoder_depth, decoder_heads: Of the decoder.
        size: Side of an image in pixels, unless told otherwise.
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
    "mae_vit_base": ViTShape(16, 768, 12, 12),
    "mae_vit_large": ViTShape(16, 1024, 24, 16),
    # For small pictures and two cores: planted faces.
    "mae_vit_mini": ViTShape(16, 128, 4, 4, 64, 2, 4, size=64),
}


class ViTEncoder(nn.Module):
    """The ViT, with fixed sine-cosine positions.

    Args:
        shape: Its numbers.
        size: Side of an image in pixels.

    Raises:
        InputError: If no whole number of patches fits into a side.
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
        """The class token, then those of the patches kept (all), in the order given: N = 1 + K."""
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
        """The mean of the patch tokens."""
        return self.tokens(images)[:, 1:].mean(dim=1)


class MaskedAutoencoder(ViTEncoder):
    """The encoder with the decoder that it is trained with.

    Args:
        shape: Its numbers.
        size: Side of an image in pixels.
        mask_ratio: Share of the patches that is removed.
        normalise_pixels: Whether a patch's pixels are told less their mean, over their deviation.
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
        """Each image's loss: the mean squared error of its removed patches.

        Args:
            images: Normalised.
            noise: The patches with the smallest are visible.
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
        """What the decoder tells of each patch's pixels, and which patches were removed."""
        shuffled = noise.argsort(dim=1, stable=True)
        place = shuffled.argsort(dim=1)
        seen = self.decoder_embed(self.tokens(images, shuffled[:, : self.visible]))
        unseen = self.mask_token.expand(len(seen), self.patches - self.visible, -1)
        patches = _gather_tokens(torch.cat([seen[:, 1:], unseen.to(seen.dtype)], dim=1), place)
        x = torch.cat([seen[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:], place >= self.visible

    @torch.inference_mode()
    def reconstruct(
        self, images: Float[Tensor, "B 3 S S"], noise: Float[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B 3 S S"], Float[Tensor, "B 3 S S"]]:
        """The images with removed patches grey (0), and with what is told in their place.

        Where pixels are told less their mean, over their deviation, these are the removed patch's
        own.
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
    """Patches row by row, their Q = P x P x 3 pixels row by row, colours last."""
    side = images.shape[-1] // patch
    grid = images.reshape(len(images), 3, side, patch, side, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(len(images), side**2, -1)


def unpatchify(patches: Float[Tensor, "B L Q"], patch: int) -> Float[Tensor, "B 3 S S"]:
    """The images of these patches."""
    side = int(patches.shape[1] ** 0.5)
    grid = patches.reshape(len(patches), side, side, patch, patch, 3)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, side * patch, side * patch)


def patch_statistics(
    patches: Float[Tensor, "B L Q"],
) -> tuple[Float[Tensor, "B L 1"], Float[Tensor, "B L 1"]]:
    """Mean and standard deviation of each patch: sqrt(unbiased variance + 1e-6)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + EPSILON).sqrt()


def sincos_positions(width: int, side: int) -> Float[np.ndarray, "N D"]:
    """Positions of a class token (0) and of side x side patches: N = 1 + L.

    Half of the dimensions tell the column, half the row; a quarter each, for frequencies
    1 / 10000^(i / (D / 4)), the sine and then the cosine (the reference's order).
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
    """The reference's: Xavier's uniform weights, biases 0."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _init_patch_embedding(embed: PatchEmbed) -> None:
    """As if patches went through a linear layer."""
    nn.init.xavier_uniform_(embed.proj.weight.view(len(embed.proj.weight), -1))


def _gather_tokens(tokens: Float[Tensor, "B L D"], places: Int[Tensor, "B K"]) -> Float[Tensor, "B K D"]:
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1]))
