"""What a training needs to go on, as safetensors: reading it back runs no code.

All tensors of one type stand in one: a file of a hundred small ones takes ten times as long.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

PLAIN = "plain"
"""The tensor that holds, as JSON, all that is no tensor, and each tensor's type and shape."""
MARK = "tensor"


def pack(state: Mapping[str, Any]) -> bytes:
    """Nested mappings and lists of tensors, numbers, strings and None; a key becomes a string."""
    flat: defaultdict[str, list[Tensor]] = defaultdict(list)

    def mark(node: Any) -> Any:
        if isinstance(node, Tensor):
            kind = str(node.dtype).removeprefix("torch.")
            flat[kind].append(node.detach().flatten())
            return {MARK: [kind, *node.shape]}
        if isinstance(node, Mapping):
            return {str(key): mark(value) for key, value in node.items()}
        return [mark(value) for value in node] if isinstance(node, list | tuple) else node

    text = json.dumps(mark(state)).encode()
    # Of several devices: an optimizer counts its steps on the CPU.
    whole = {kind: torch.cat([t.cpu() for t in tensors]) for kind, tensors in flat.items()}
    return save({**whole, PLAIN: torch.frombuffer(bytearray(text), dtype=torch.uint8)})


def unpack(packed: bytes) -> dict[str, Any]:
    """What was packed, its tensors on the CPU."""
    whole = load(packed)
    plain = json.loads(whole.pop(PLAIN).numpy().tobytes())
    take: dict[str, Callable[[int], Tensor]] = {
        kind: _taker(tensor) for kind, tensor in whole.items()
    }

    def unmark(node: Any) -> Any:
        if isinstance(node, dict) and node.keys() == {MARK}:
            kind, *shape = node[MARK]
            return take[kind](torch.Size(shape).numel()).reshape(shape)
        if isinstance(node, dict):
            return {key: unmark(value) for key, value in node.items()}
        return [unmark(value) for value in node] if isinstance(node, list) else node

    state: dict[str, Any] = unmark(plain)
    return state


def _taker(tensor: Tensor) -> Callable[[int], Tensor]:
    """Hands out the next so many elements."""
    at = 0

    def take(count: int) -> Tensor:
        nonlocal at
        at += count
        return tensor[at - count : at]

    return take
