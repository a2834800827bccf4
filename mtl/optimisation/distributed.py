"""The processes that train one model together, each on every W-th lane of a global batch.

W workers train the model that one would: the losses are those of the whole batch, gradient
included, and whatever decides how training goes on is the same on all of them.

Shapes: S steps, B lanes of all workers together, L of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mtl.sequences.windows import Schedule

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This worker among all; on its own it is rank 0 of 1, and everything here is the identity.

    All workers call the same methods in the same order: each one waits for the others. Messages
    between CPUs need a backend for CPUs beside that of the GPUs: ``cpu:gloo,cuda:nccl``.

    Attributes:
        rank: Which one this is, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> "Workers":
        """Those of torch.distributed's default group; on its own where there is none."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def shard(self, schedule: Schedule) -> Int[np.ndarray, "S L P 3"]:
        """This worker's lanes of a global schedule: rank, rank + size, ...

        Idle lanes are added until each worker has equally many, and at least one.
        """
        if self.size == 1:
            return schedule
        steps, lanes = schedule.shape[:2]
        each = -(-lanes // self.size)
        padded = np.zeros((steps, each * self.size, *schedule.shape[2:]), schedule.dtype)
        padded[:, :lanes] = schedule
        return padded[:, self.rank :: self.size]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over workers, each parameter that of rank 0."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, gradient_as_bucket_view=True)

    def sum(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Each vector summed over workers: one exchange, in double precision, differentiable.

        The gradient of a worker's own part is ``size`` times that of the sum. ``wrap`` averages
        over workers, so the model gets the gradient of the whole batch; parameters that are not
        the model's see but the sums, the same on all workers, and get theirs exactly.
        """
        if self.size == 1:
            return list(parts)
        flat = torch.cat([part.double() for part in parts])
        sums: Tensor = _SumOverWorkers.apply(flat, self.size)
        pieces = torch.split(sums, [len(part) for part in parts])
        return [piece.to(part.dtype) for piece, part in zip(pieces, parts, strict=True)]

    def all_reduce(self, values: np.ndarray) -> np.ndarray:
        """The elementwise sum over workers; exact where only one is not 0."""
        if self.size == 1:
            return values
        total = torch.from_numpy(values.copy())
        dist.all_reduce(total)
        return total.numpy()

    def broadcast_flag(self, flag: bool) -> bool:
        """Rank 0's flag."""
        if self.size == 1:
            return flag
        message = torch.tensor([flag])
        dist.broadcast(message, src=0)
        return bool(message)

    def broadcast_object(self, value: T) -> T:
        """Rank 0's object."""
        if self.size == 1:
            return value
        box = [value if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give a model the buffers of rank 0's, such as BatchNorm's running statistics."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


SINGLE_WORKER = Workers()


class _SumOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, part: Tensor, size: int) -> Tensor:
        context.size = size
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * context.size, None
