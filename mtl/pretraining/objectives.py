"""Objectives of pretraining: the model that is trained and its losses.

Shapes: B images of S x S pixels, L patches of an image, 15 label columns and 22 output columns as
in ``mtl.tasks``.
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
from mtl.losses.balancing import BALANCINGS, Balancing, CombineRows
from mtl.losses.functions import LOSSES, Loss
from mtl.optimisation.device import autocast
from mtl.predictions.activation import activate
from mtl.pretraining.config import MAEConfig, SupervisedConfig
from mtl.strict import Component, did_you_mean
from mtl.tasks import OUTPUT_COLUMNS, TASKS

ImageBatch = Mapping[str, Tensor]
"""Batch of B images of S x S pixels, as tensors by name.

``pixels`` (B, S, S, 3) is uint8. ``valid`` (B,) is False where an image could not be read. A batch
for a masked autoencoder has ``noise``, one number for each of L patches, (B, L). A supervised batch
has ``labels`` and ``mask``, (B, 15).
"""


class Objective(ABC):
    """Base class of the objectives of a pretraining: the trained model, its losses and gradients.

    Attributes:
        backbone: Backbone that is trained.
        model: Module that maps an ``ImageBatch`` to a list with one vector for each loss. The
            vector holds the sums over images from which the loss is computed. DDP workers add
            their sums up, so a batch that is divided among workers has the loss and the gradient
            of the whole batch.
        balancing: Balancing of the losses (their weights in the combined loss); its parameters are
            trained with the model. It is an empty module if there is one loss.
    """

    backbone: Backbone
    model: nn.Module
    balancing: nn.Module

    @abstractmethod
    def begin_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Prepare the balancing (the weighting of the losses) for an epoch.

        Args:
            history: Mean losses of each earlier epoch, in order.
        """

    @abstractmethod
    def losses(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the losses of a batch and return them by name.

        Args:
            sums: One vector for each loss, with the sums over the images of all DDP workers from
                which the loss is computed, such as a sum of errors and a number of images.
        """

    @abstractmethod
    def backward(
        self,
        losses: Mapping[str, Tensor],
        sums: Sequence[Tensor],
        scale: Callable[[Tensor], Tensor],
        combine_rows: CombineRows,
    ) -> None:
        """Compute the gradients of all parameters.

        Args:
            losses: Each loss by name, as the method ``losses`` returned it.
            sums: The vectors from which these losses were computed.
            scale: Function of the gradient scaler that multiplies a loss by the current scale.
            combine_rows: Function that sums the rows of a matrix over the DDP workers, and
                combines them.
        """

    def weights(self) -> dict[str, Tensor]:
        """Return the backbone's state dict on the CPU, to be saved for ``load_backbone``."""
        state = self.backbone.model.state_dict()
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}


class Reconstruction(Objective):
    """Reconstruction of the pixels of masked patches by a masked autoencoder (He et al. 2022).

    Args:
        config: Config of the pretraining.

    Raises:
        InputError: If the backbone is no masked autoencoder, or the weights do not fit it.
    """

    model: "_ReconstructionModel"

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
            _load_weights(self.autoencoder, config.weights)
        self.backbone = Backbone(config.backbone, recipe, self.autoencoder, size, shape.width)
        self.model = _ReconstructionModel(self.backbone.colours, self.autoencoder)
        self.balancing = nn.Module()

    def begin_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Do nothing: this objective has a single loss, so there is nothing to balance."""

    def losses(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return a dict with one loss, ``reconstruction``: the mean loss of the readable images."""
        return {"reconstruction": sums[0][0] / sums[0][1].clamp(min=1)}

    def backward(
        self,
        losses: Mapping[str, Tensor],
        sums: Sequence[Tensor],
        scale: Callable[[Tensor], Tensor],
        combine_rows: CombineRows,
    ) -> None:
        """Compute the gradients of the reconstruction loss; no other argument is used."""
        torch.autograd.backward(scale(losses["reconstruction"]))

    @torch.inference_mode()
    def picture(
        self, pixels: UInt8[Tensor, "B S S 3"], noise: Float[Tensor, "B L"]
    ) -> UInt8[np.ndarray, "B 3 S S 3"]:
        """Return pixels of three versions of each face, for a picture of the training's progress.

        The result has the shape (faces, 3 versions, side, side, 3 colours). The versions are the
        face itself, the face with masked patches in the mean colour, and the face with predicted
        pixels in the masked patches.

        Args:
            pixels: Pixels of the faces.
            noise: Random number of each patch; the patches with the largest numbers are masked.
        """
        self.backbone.eval()
        images = self.backbone.colours.normalise(pixels)
        versions = [images, *self.autoencoder.reconstruct(images, noise)]
        faces = torch.stack([self.backbone.colours.pixels(version) for version in versions], dim=1)
        return np.asarray(faces.cpu().numpy())


class _ReconstructionModel(nn.Module):
    def __init__(self, colours: ColourNormalisation, autoencoder: MaskedAutoencoder) -> None:
        super().__init__()
        self.colours, self.autoencoder = colours, autoencoder

    def forward(self, batch: ImageBatch) -> list[Tensor]:
        """Return one vector in a list: the sum of the readable images' losses, and their number."""
        valid = batch["valid"]
        images = self.colours.normalise(batch["pixels"])
        each = self.autoencoder.losses(images, batch["noise"]).masked_fill(~valid, 0)
        return [torch.stack([each.sum(), valid.sum().to(each)])]


def _load_weights(autoencoder: MaskedAutoencoder, file: str) -> None:
    """Load a file with the weights of an encoder, and of its decoder if the file has them.

    Position embeddings are not loaded, because they follow from the image size.
    """
    initial = autoencoder.state_dict()
    loaded = read_weights(file, initial)
    has_decoder = any(name.startswith("decoder_blocks.") for name in loaded)
    kept = {
        name: value
        for name, value in initial.items()
        if name in ("pos_embed", "decoder_pos_embed")
        or (not has_decoder and name.startswith(("decoder_", "mask_token")))
    }
    load_weights(autoencoder, loaded | kept, f"weights {file}")


class Supervision(Objective):
    """Supervised learning: dropout and one linear head for each task on the backbone's features.

    Args:
        config: Config of the pretraining.
        prior: Mean of valence and of arousal, and frequency of each expression and action unit,
            over the training labels.

    Raises:
        InputError: If the backbone is unknown, or the weights do not fit it.
    """

    model: "_SupervisedModel"
    balancing: Balancing

    def __init__(self, config: SupervisedConfig, prior: Float[np.ndarray, "22"]) -> None:
        seed = config.training.seed
        self.backbone = load_backbone(config.backbone, config.weights, config.size, seed)
        self.tasks = config.tasks
        with seeded_generator(seed):
            self.model = _SupervisedModel(self.backbone, config, torch.from_numpy(prior))
            self.balancing = BALANCINGS[config.balancing.name](**config.balancing.parameters)

    def begin_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Pass the losses of earlier epochs to the balancing (weighting of the tasks' losses)."""
        self.balancing.begin_epoch(history)

    def losses(self, sums: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the loss of the labelled images of the batch for each task, by the task's name."""
        parts = dict(zip(self.tasks, sums, strict=True))
        return {task: loss.value(parts[task]) for task, loss in self.model.losses.items()}

    def backward(
        self,
        losses: Mapping[str, Tensor],
        sums: Sequence[Tensor],
        scale: Callable[[Tensor], Tensor],
        combine_rows: CombineRows,
    ) -> None:
        """Compute all gradients by the balancing (weighting of the tasks' losses or gradients)."""
        parts = dict(zip(self.tasks, sums, strict=True))
        labelled = {task: loss.has_labels(parts[task]) for task, loss in self.model.losses.items()}
        shared = [p for p in self.backbone.parameters() if p.requires_grad]
        self.balancing.backward(losses, labelled, shared, scale, combine_rows)

    @torch.inference_mode()
    def outputs(self, pixels: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B 22"]:
        """Predict images: return values and probabilities of all tasks, shape (images, 22).

        The columns of tasks that are not trained are NaN.
        """
        self.model.eval()
        rows = torch.full((len(pixels), len(OUTPUT_COLUMNS)), torch.nan, device=pixels.device)
        for task, raw in self.model.raw(pixels).items():
            rows[:, TASKS[task].outputs] = activate(task, raw.float())
        return rows


class _SupervisedModel(nn.Module):
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
        """Loss function of each task, by the task's name, on the model's device."""
        return {task: self._make_loss(task) for task in self.heads}

    def _make_loss(self, task: str) -> Loss:
        component: Component = getattr(self._config, task)
        prior = self.get_buffer("prior")[TASKS[task].outputs]
        loss: Loss = LOSSES[TASKS[task].kind][component.name](prior, **component.parameters)
        return loss

    def raw(self, pixels: UInt8[Tensor, "B S S 3"]) -> dict[str, Tensor]:
        """Return raw outputs (values or logits) by task, each of shape (images, outputs)."""
        features = self.dropout(self.backbone(pixels))
        return {task: head(features) for task, head in self.heads.items()}

    def forward(self, batch: ImageBatch) -> list[Tensor]:
        """Return one vector for each task: the sums over labelled images that its loss needs."""
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
