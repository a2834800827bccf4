"""What a training needs to go on, as safetensors: reading it back runs no code.

All tensors of one type stand in one: a file of a hundred small ones takes ten times as long.
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

PLAIN = "plain"
"""The tensor that holds, as JSON, what is no tensor, and where each tensor begins."""
MARK = "tensor"


def pack(state: Mapping[str, Any]) -> bytes:
    """Nested mappings and lists of tensors, numbers, strings and None; a key becomes a string."""
    flat: defaultdict[str, list[Tensor]] = defaultdict(list)
    sizes: Counter[str] = Counter()

    def mark(node: Any) -> Any:
        if isinstance(node, Tensor):
            kind = str(node.dtype).removeprefix("torch.")
            first = sizes[kind]
            sizes[kind] += node.numel()
            flat[kind].append(node.detach().flatten())
            return {MARK: [kind, first, *node.shape]}
        if isinstance(node, Mapping):
            return {str(key): mark(value) for key, value in node.items()}
        return [mark(value) for value in node] if isinstance(node, list | tuple) else node

    text = json.dumps(mark(state)).encode()
    # Of several devices: an optimizer counts its steps on the CPU.
    whole = {kind: torch.cat([t.cpu() for t in tensors]) for kind, tensors in flat.items()}
    return save({**whole, PLAIN: torch.frombuffer(bytearray(text), dtype=torch.uint8)})


def unpack(packed: bytes) -> dict[str, Any]:
    """What was packed, its tensors on the CPU.

    Raises:
        SafetensorError: It is damaged.
    """
    whole = load(packed)
    plain = json.loads(whole.pop(PLAIN).numpy().tobytes())

    def unmark(node: Any) -> Any:
        if isinstance(node, dict) and node.keys() == {MARK}:
            kind, first, *shape = node[MARK]
            return whole[kind][first : first + math.prod(shape)].reshape(shape)
        if isinstance(node, dict):
            return {key: unmark(value) for key, value in node.items()}
        return [unmark(value) for value in node] if isinstance(node, list) else node

    state: dict[str, Any] = unmark(plain)
    return state


def read_checkpoint(checkpoint: bytes) -> dict[str, Any]:
    """What a trainer packed: its states by name, the optimizer's numbered as torch numbers them.

    Raises:
        TrainingError: It is damaged.
    """
    try:
        state = unpack(checkpoint)
    except SafetensorError as error:
        raise TrainingError(
            f"the checkpoint is damaged ({error}): remove it, and the training begins anew"
        ) from None
    moments = state["optimizer"]["state"]
    state["optimizer"]["state"] = {int(number): moments[number] for number in moments}
    return state
