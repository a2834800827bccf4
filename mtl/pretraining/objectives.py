"""What a backbone is pretrained for: a model in training, and the losses of what it says.

Shapes: B images of S x S pixels, L patches, F features, 15 labels and 22 outputs as ``mtl.tasks``
lays them out.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mtl.errors import InputError
from mtl.features.backbones import (
    BACKBONES,
    HUB,
    RANDOM,
    Backbone,
    ColourNormalisation,
    load_backbone,
    seeded_generator,
)
from mtl.features.mae import VITS, MaskedAutoencoder
from mtl.features.weights import load_weights, read_weights
from mtl.losses.balancing import BALANCINGS, Balancing
from mtl.losses.functions import LOSSES, Loss
from mtl.optimisation.device import autocast
from mtl.predictions.activation import activate
from mtl.pretraining.config import MAEConfig, SupervisedConfig
from mtl.strict import Component, did_you_mean
from mtl.tasks import OUTPUT_COLUMNS, TASKS

ImageBatch = Mapping[str, Tensor]
"""``pixels`` (B, S, S, 3) uint8 and ``valid`` (B,) bool, False where an image could not be read;
with them ``noise`` (B, L), or ``labels`` and ``mask`` (B, 15).
"""


class Objective(ABC):
    """A model in training.

    Attributes:
        backbone: The one that is trained.
        model: From an ``ImageBatch`` to a list of sums, a vector for each loss, additive over
            images. Workers add theirs up, so that a batch that is split among them has the loss,
            and the gradient, of the whole.
        balancing: Balancing of the losses, trained with the model; an empty module if there is one
            loss.
    """

    backbone: Backbone
    model: nn.Module
    balancing: nn.Module

    @abstractmethod
    def begin_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Told the mean losses of the epochs so far."""

    @abstractmethod
    def losses(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """Each loss of a whole batch's sums."""

    @abstractmethod
    def backward(
        self,
        losses: Mapping[str, Tensor],
        sums: Sequence[Tensor],
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        """Fill all gradients; ``scale`` is the gradient scaler's."""

    def weights(self) -> dict[str, Tensor]:
        """The trained backbone, as ``load_backbone`` reads it, on the CPU."""
        state = self.backbone.model.state_dict()
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}


class Reconstruction(Objective):
    """A masked autoencoder: the pixels of removed patches (He et al. 2022).

    Raises:
        InputError: A backbone that is no ViT of ours, or weights that are not its.
    """

    model: "_Masked"

    def __init__(self, config: MAEConfig) -> None:
        if config.backbone not in VITS:
            near = did_you_mean(config.backbone, VITS)
            raise InputError(f"backbone = {config.backbone!r} is no masked autoencoder{near}")
        if config.weights == HUB:
            raise InputError(
                f"weights = {HUB!r} is refused: backbone {config.backbone} has none on timm's hub; "
                "give a file of weights"
            )
        recipe, shape = BACKBONES[config.backbone], VITS[config.backbone]
        size = recipe.size if config.size is None else config.size
        with seeded_generator(config.training.seed):
            self.autoencoder = MaskedAutoencoder(
                shape, size, config.mask_ratio, config.normalise_pixels
            )
        if config.weights != RANDOM:
            _load(self.autoencoder, config.weights)
        self.backbone = Backbone(config.backbone, recipe, self.autoencoder, size, shape.width)
        self.model, self.balancing = _Masked(self.backbone.colours, self.autoencoder), nn.Module()

    def begin_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """All epochs are alike."""

    def losses(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """The mean over images."""
        return {"reconstruction": sums[0][0] / sums[0][1].clamp(min=1)}

    def backward(
        self,
        losses: Mapping[str, Tensor],
        sums: Sequence[Tensor],
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        """That of the one loss."""
        torch.autograd.backward(scale(losses["reconstruction"]))

    @torch.inference_mode()
    def picture(
        self, pixels: UInt8[Tensor, "B S S 3"], noise: Float[Tensor, "B L"]
    ) -> UInt8[np.ndarray, "B 3 S S 3"]:
        """Each face as it is, with removed patches grey, and with what is told in their place."""
        self.backbone.eval()
        images = self.backbone.colours.normalise(pixels)
        shown = [images, *self.autoencoder.reconstruct(images, noise)]
        whole = torch.stack([self.backbone.colours.pixels(one) for one in shown], dim=1)
        return np.asarray(whole.cpu().numpy())


class _Masked(nn.Module):
    def __init__(self, colours: ColourNormalisation, autoencoder: MaskedAutoencoder) -> None:
        super().__init__()
        self.colours, self.autoencoder = colours, autoencoder

    def forward(self, batch: ImageBatch) -> list[Tensor]:
        """(Σ loss, images)."""
        valid = batch["valid"]
        images = self.colours.normalise(batch["pixels"])
        each = self.autoencoder.losses(images, batch["noise"]).masked_fill(~valid, 0)
        return [torch.stack([each.sum(), valid.sum().to(each)])]


def _load(autoencoder: MaskedAutoencoder, file: str) -> None:
    """Weights of an encoder, with its decoder or without; positions follow from the size."""
    own = autoencoder.state_dict()
    given = read_weights(file, own)
    decoder = any(name.startswith("decoder_blocks.") for name in given)
    kept = {
        name: value
        for name, value in own.items()
        if name in ("pos_embed", "decoder_pos_embed")
        or (not decoder and name.startswith(("decoder_", "mask_token")))
    }
    load_weights(autoencoder, given | kept, f"weights {file}")


class Supervision(Objective):
    """The labels of the tasks: dropout and one linear head for each, on the features.

    Args:
        config: The pretraining.
        prior: How frequent each class and unit is in training, (22,).

    Raises:
        InputError: An unknown backbone, or weights that are not its.
    """

    model: "_Labelled"
    balancing: Balancing

    def __init__(self, config: SupervisedConfig, prior: Float[np.ndarray, "22"]) -> None:
        seed = config.training.seed
        self.backbone = load_backbone(config.backbone, config.weights, config.size, seed)
        self.tasks = config.tasks
        with seeded_generator(seed):
            self.model = _Labelled(self.backbone, config, torch.from_numpy(prior))
            self.balancing = BALANCINGS[config.balancing.name](**config.balancing.parameters)

    def begin_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """The balancing may look at it."""
        self.balancing.begin_epoch(history)

    def losses(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """Each task's, over its labelled images."""
        parts = dict(zip(self.tasks, sums, strict=True))
        return {task: loss.value(parts[task]) for task, loss in self.model.losses.items()}

    def backward(
        self,
        losses: Mapping[str, Tensor],
        sums: Sequence[Tensor],
        scale: Callable[[Tensor], Tensor],
    ) -> None:
        """The balancing's."""
        parts = dict(zip(self.tasks, sums, strict=True))
        labelled = {task: loss.has_labels(parts[task]) for task, loss in self.model.losses.items()}
        shared = [p for p in self.backbone.parameters() if p.requires_grad]
        self.balancing.backward(losses, labelled, shared, scale)

    @torch.inference_mode()
    def outputs(self, pixels: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B 22"]:
        """Values and probabilities of images; NaN for tasks that are not trained."""
        self.model.eval()
        rows = torch.full((len(pixels), len(OUTPUT_COLUMNS)), torch.nan, device=pixels.device)
        for task, raw in self.model.raw(pixels).items():
            rows[:, TASKS[task].outputs] = activate(task, raw.float())
        return rows


class _Labelled(nn.Module):
    def __init__(
        self, backbone: Backbone, config: SupervisedConfig, prior: Float[Tensor, "22"]
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(config.dropout)
        self.heads = nn.ModuleDict(
            {task: nn.Linear(backbone.width, TASKS[task].width) for task in config.tasks}
        )
        self.register_buffer("prior", prior, persistent=False)
        self._config = config.loss

    @property
    def losses(self) -> dict[str, Loss]:
        """Of each task, on the model's device."""
        return {task: self._loss(task) for task in self.heads}

    def _loss(self, task: str) -> Loss:
        chosen: Component = getattr(self._config, task)
        prior = self.get_buffer("prior")[TASKS[task].outputs]
        made: Loss = LOSSES[TASKS[task].kind][chosen.name](prior, **chosen.parameters)
        return made

    def raw(self, pixels: UInt8[Tensor, "B S S 3"]) -> dict[str, Tensor]:
        """Each task's raw outputs."""
        features = self.dropout(self.backbone(pixels))
        return {task: head(features) for task, head in self.heads.items()}

    def forward(self, batch: ImageBatch) -> list[Tensor]:
        """Each task's sums over its labelled images."""
        raw, mask = self.raw(batch["pixels"]), batch["mask"] & batch["valid"][:, None]
        with autocast(mask.device, torch.float32):
            return [
                loss.sums(
                    raw[task].to(batch["labels"].dtype),
                    batch["labels"][:, TASKS[task].labels],
                    mask[:, TASKS[task].labels],
                )
                for task, loss in self.losses.items()
            ]
