"""Choice of the device and the floating-point precision of a training."""

import torch

from mtl.errors import InputError


def choose_device(device: str, key: str = "device") -> torch.device:
    """Return the torch device of a name: ``auto``, ``cpu`` or ``cuda``.

    ``auto`` is CUDA if it is available, else the CPU.

    Args:
        device: The name.
        key: Setting that holds the name, for the message.

    Raises:
        InputError: If the name is ``cuda`` and no GPU is visible.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{key} = 'cuda', but no GPU is visible: leave it at auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the forward pass for a name: ``auto`` or the name of a torch dtype.

    ``auto`` is bfloat16 on CUDA devices that support it, else float32.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def parameter_dtype(precision: torch.dtype) -> torch.dtype:
    """Return the dtype of parameters and features: float64 in double precision, else float32.

    Args:
        precision: Dtype of the forward pass.
    """
    return torch.promote_types(precision, torch.float32)


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Return torch's autocast context, enabled only for bfloat16 and float16.

    Args:
        device: Device of the forward pass.
        precision: Dtype of the forward pass.
    """
    return torch.autocast(device.type, precision, precision.itemsize < 4)
