"""Device and precision of a training."""

import torch


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


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Half precision where it is wanted."""
    return torch.autocast(device.type, precision, precision.itemsize < 4)
