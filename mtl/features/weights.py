"""Files of weights: safetensors, or torch's read without running code; all of them, or none."""

import hashlib
from argparse import Namespace  # noqa: TID251 (read, not used)
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mtl.errors import InputError, brief

WRAPPINGS = ("model", "state_dict", "model_state", "state_dict_backbone")
"""Under which training programs keep the weights in a checkpoint."""
PREFIXES = ("module.", "backbone.", "encoder.")
"""What all names begin with where the weights were saved of something around the module."""
PICKLED = (b"PK\x03\x04", b"\x80\x02")
"""How torch's files begin, since 1.6 and before."""
MAX_NAMES_SHOWN = 3


def read_weights(file: str | Path, own: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of a file by their names, on the CPU, floating ones in float32.

    Args:
        file: Safetensors or torch's format, told by its content. ``WRAPPINGS`` around the tensors
            and ``PREFIXES`` before all names are taken off.
        own: Names of what they are for: a prefix that one of them begins with stays.

    Raises:
        InputError: The file is missing, unreadable, no file of weights, or holds no tensors or,
            being torch's, what could run code.
    """
    content: Any = _read(Path(file).expanduser())
    for key in WRAPPINGS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if isinstance(content, Mapping):
        tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    else:
        tensors = {}
    if not tensors:
        raise InputError(f"{file} holds no tensors: give a file of weights (a state dict)")
    for prefix in PREFIXES:
        around = not any(name.startswith(prefix) for name in own)
        if around and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _read(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
        if head[8:] == b"{":  # safetensors: eight bytes of length, then JSON
            return load_file(file)
        if head.startswith(PICKLED):
            # Attributes alone: training programs keep their arguments beside the weights.
            with torch.serialization.safe_globals([Namespace]):
                return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"weights {file} do not exist: give a file of weights") from None
    except OSError as error:
        raise InputError(f"cannot read weights {file} ({brief(error)}): make it readable") from None
    except UnpicklingError:
        raise InputError(
            f"{file} holds more than tensors, and reading it could run code: save its state dict "
            "alone, as safetensors"
        ) from None
    except Exception as error:  # whatever a reader meets in damaged bytes
        raise InputError(
            f"{file} is damaged or no file of weights ({brief(error)}): give safetensors or "
            "what torch.save made of a state dict"
        ) from None
    raise InputError(
        f"{file} is no file of weights: give safetensors or what torch.save made of a state dict"
    )


def load_weights(
    module: nn.Module, state: Mapping[str, Tensor], where: str, ignored: Sequence[str] = ()
) -> None:
    """Load weights into a module: all of its own, from no others.

    Args:
        module: What they are for; left as it is if they are refused.
        state: Tensors by name.
        where: What they are, for the message.
        ignored: How names begin that may be there beside the module's own.

    Raises:
        InputError: Names are missing, unknown, or tensors of another shape.
    """
    own = module.state_dict()
    given = {k: v for k, v in state.items() if k in own or not k.startswith(tuple(ignored))}
    faults = {
        "missing": [key for key in own if key not in given],
        "unknown": [key for key in given if key not in own],
        "of another shape": [
            f"{key} {_shape(given[key])} for {_shape(own[key])}"
            for key in own
            if key in given and given[key].shape != own[key].shape
        ],
    }
    found = [f"{_list_names(keys)} {fault}" for fault, keys in faults.items() if keys]
    if found:
        raise InputError(
            f"{where} do not fit: {'; '.join(found)}; they are probably weights of another "
            "architecture or image size"
        )
    module.load_state_dict(given)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors by name, the same for the same content wherever it lies."""
    sha = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        sha.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def _list_names(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - MAX_NAMES_SHOWN:,} more" if len(keys) > MAX_NAMES_SHOWN else ""
    return f"{', '.join(keys[:MAX_NAMES_SHOWN])}{more} {'are' if len(keys) > 1 else 'is'}"


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
