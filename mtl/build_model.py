"""A trial's model, and where and in what precision it runs."""

from collections.abc import Sequence

import torch

from mtl.config import TrialConfig
from mtl.models.encoders import ENCODERS, Encoder
from mtl.models.frameworks import FRAMEWORKS, Framework
from mtl.models.heads import HEADS, Head
from mtl.tasks import TASKS


class TrialParts:
    """A trial's encoders and heads."""

    def __init__(self, config: TrialConfig) -> None:
        self._encoder, self._head = config.encoder, config.head

    def encoder(self, features: int, *, layers: int | None = None, on_top: bool = False) -> Encoder:
        """An encoder of ``encoder.layers`` layers, or so many; on top of another one or not."""
        parameters = self._encoder.parameters
        if layers is not None:
            parameters["layers"] = layers
        return ENCODERS[self._encoder.name](features, on_top, **parameters)

    def head(self, hidden: int, task: str) -> Head:
        """A task's head."""
        return HEADS[self._head.name](hidden, TASKS[task].width, **self._head.parameters)


def build_model(config: TrialConfig, features: int, tasks: Sequence[str]) -> Framework:
    """The untrained model over ``features`` joined features."""
    framework = FRAMEWORKS[config.framework.name]
    return framework(features, tasks, TrialParts(config), **config.framework.parameters)


def choose_device(device: str) -> torch.device:
    """``auto``: CUDA where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """``auto``: bfloat16 autocast on CUDA devices that have it, else float32."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def parameter_dtype(precision: torch.dtype) -> torch.dtype:
    """What parameters and features are kept in: float32, whatever autocast makes of them."""
    return torch.promote_types(precision, torch.float32)


def place_model(
    config: TrialConfig, features: int, tasks: Sequence[str], device: torch.device
) -> Framework:
    """``build_model`` on a device, in the precision that the config asks for there."""
    dtype = parameter_dtype(choose_precision(config.training.precision, device))
    return build_model(config, features, tasks).to(device, dtype)


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Half precision where it is wanted."""
    return torch.autocast(device.type, precision, precision.itemsize < 4)
