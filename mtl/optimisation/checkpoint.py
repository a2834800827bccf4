"""Checkpoints of a training in the safetensors format; reading one runs no code.

All tensors of one dtype are joined into one tensor: a file of a hundred small tensors takes ten
times as long to write.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mtl.errors import TrainingError

JSON_NAME = "plain"
"""Name of the tensor in a checkpoint that holds a JSON text.

The text has all values that are not tensors, and the place of each tensor in the file.
"""
TENSOR_KEY = "tensor"
"""Only key of the JSON object that replaces a tensor; its value is [dtype, position, *shape].

The position is the index of the tensor's first element in the joined tensor of the dtype.
"""


def pack(state: Mapping[str, Any]) -> bytes:
    """Return a training state (nested dicts and lists of tensors) as bytes in safetensors format.

    Args:
        state: Nested mappings and lists of tensors, numbers, strings and None; keys become strings.
    """
    flat: defaultdict[str, list[Tensor]] = defaultdict(list)
    sizes: Counter[str] = Counter()

    def encode(node: Any) -> Any:
        if isinstance(node, Tensor):
            dtype = str(node.dtype).removeprefix("torch.")
            first = sizes[dtype]
            sizes[dtype] += node.numel()
            flat[dtype].append(node.detach().flatten())
            return {TENSOR_KEY: [dtype, first, *node.shape]}
        if isinstance(node, Mapping):
            return {str(key): encode(value) for key, value in node.items()}
        return [encode(value) for value in node] if isinstance(node, list | tuple) else node

    text = json.dumps(encode(state)).encode()
    # The tensors are on several devices: an optimizer counts its steps on the CPU.
    joined = {dtype: torch.cat([t.cpu() for t in tensors]) for dtype, tensors in flat.items()}
    return save({**joined, JSON_NAME: torch.frombuffer(bytearray(text), dtype=torch.uint8)})


def unpack(packed: bytes) -> dict[str, Any]:
    """Return the training state that ``pack`` turned into bytes, with its tensors on the CPU.

    Args:
        packed: Bytes that ``pack`` returned.

    Raises:
        SafetensorError: If the bytes are damaged.
    """
    joined = load(packed)
    plain = json.loads(joined.pop(JSON_NAME).numpy().tobytes())

    def decode(node: Any) -> Any:
        if isinstance(node, dict) and node.keys() == {TENSOR_KEY}:
            dtype, first, *shape = node[TENSOR_KEY]
            return joined[dtype][first : first + math.prod(shape)].reshape(shape)
        if isinstance(node, dict):
            return {key: decode(value) for key, value in node.items()}
        return [decode(value) for value in node] if isinstance(node, list) else node

    state: dict[str, Any] = decode(plain)
    return state


def read_checkpoint(checkpoint: bytes) -> dict[str, Any]:
    """Return the content of a trainer's checkpoint, with state dicts for ``load_state_dict``.

    The keys are ``model``, ``optimizer``, ``scaler`` and the trainer's key for its balancing, each
    with a state dict, and ``history`` with the list of the results of the finished epochs.

    Args:
        checkpoint: Bytes that a trainer's method ``checkpoint`` returned.

    Raises:
        TrainingError: If the checkpoint is damaged.
    """
    try:
        state = unpack(checkpoint)
    except SafetensorError as error:
        raise TrainingError(
            f"the checkpoint is damaged ({error}): remove it, and the training begins anew"
        ) from None
    # JSON keys are strings; torch numbers the optimizer's parameters with integers.
    moments = state["optimizer"]["state"]
    state["optimizer"]["state"] = {int(number): moments[number] for number in moments}
    return state
