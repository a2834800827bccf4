"""Reading of files of model weights (safetensors or torch), and loading of weights into a module.

Reading a file never runs code that the file contains.
"""

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
"""Keys of a checkpoint under which training programs store the state dict of a model."""
PREFIXES = ("module.", "backbone.", "encoder.")
"""Prefixes that all tensor names have in the file of a module that wraps the model."""
PICKLED = (b"PK\x03\x04", b"\x80\x02")
"""First bytes of a file of ``torch.save``: of torch 1.6 and later, and of earlier versions."""
MAX_NAMES_SHOWN = 3
"""Maximum number of tensor names in an error message."""


def read_weights(file: str | Path, expected_names: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the tensors of a weights file by their names, on the CPU, with floats in float32.

    A state dict under one of the keys ``WRAPPINGS`` is unwrapped, and a prefix of ``PREFIXES`` that
    all tensor names have is removed.

    Args:
        file: File in safetensors or torch format; its content decides the format.
        expected_names: Tensor names of the model; a prefix that one of them has is not removed.

    Raises:
        InputError: The file is missing, unreadable, damaged, no file of weights, holds no tensors,
            or could run code when it is unpickled.
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
        removable = not any(name.startswith(prefix) for name in expected_names)
        if removable and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def _read(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
        if head[8:] == b"{":  # safetensors starts with eight bytes of length and a JSON object
            return load_file(file)
        if head.startswith(PICKLED):
            # Training programs often save their arguments with the weights. A Namespace has only
            # attributes, so unpickling one is safe.
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
    except Exception as error:  # damaged bytes raise exceptions of many types
        raise InputError(
            f"{file} is damaged or no file of weights ({brief(error)}): give safetensors or "
            "what torch.save made of a state dict"
        ) from None
    raise InputError(
        f"{file} is no file of weights: give safetensors or what torch.save made of a state dict"
    )


def load_weights(
    module: nn.Module, state: Mapping[str, Tensor], where: str, ignored_prefixes: Sequence[str] = ()
) -> None:
    """Load weights into a module, which is unchanged if they do not fit.

    Args:
        module: Module that gets the weights.
        state: Weights by name.
        where: Description of the weights, for messages.
        ignored_prefixes: Prefixes of names that ``state`` may have in addition to the module's.

    Raises:
        InputError: Tensors are missing, unknown or of another shape than the module's.
    """
    own = module.state_dict()
    prefixes = tuple(ignored_prefixes)
    given = {k: v for k, v in state.items() if k in own or not k.startswith(prefixes)}
    faults = {
        "missing": [key for key in own if key not in given],
        "unknown": [key for key in given if key not in own],
        "of another shape": [
            f"{key} {_shape(given[key])} for {_shape(own[key])}"
            for key in own
            if key in given and given[key].shape != own[key].shape
        ],
    }
    messages = [f"{_list_names(keys)} {fault}" for fault, keys in faults.items() if keys]
    if messages:
        raise InputError(
            f"{where} do not fit: {'; '.join(messages)}; they are probably weights of another "
            "architecture or image size"
        )
    module.load_state_dict(given)


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors in hexadecimal, independent of their order and device."""
    sha = hashlib.sha256()
    for key, tensor in sorted(state.items()):
        sha.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


def _list_names(keys: Sequence[str]) -> str:
    """Return names as a message's subject and verb, such as ``a, b, c and 2 more are``."""
    more = f" and {len(keys) - MAX_NAMES_SHOWN:,} more" if len(keys) > MAX_NAMES_SHOWN else ""
    return f"{', '.join(keys[:MAX_NAMES_SHOWN])}{more} {'are' if len(keys) > 1 else 'is'}"


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(map(str, tensor.shape))})"
