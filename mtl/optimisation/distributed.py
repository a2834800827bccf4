"""DDP workers: processes that train one model together, each on every W-th lane of a batch.

W workers train the same model as one worker: losses and gradients are those of the whole batch, and
every value that controls the training is equal on all workers.

Shapes: S steps, L lanes of one worker, P pieces of a window (see ``mtl.sequences.windows``).
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
    """Rank of this worker, number of workers, and the collectives that connect them.

    All workers must call the same collectives in the same order, because each call waits for the
    others. With one worker every method returns its argument. Some collectives exchange CPU
    memory, so training on GPUs needs a CPU backend too: ``cpu:gloo,cuda:nccl``.

    Attributes:
        rank: Number of this worker, from 0.
        size: Number of workers.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def from_process_group(cls) -> "Workers":
        """Return the workers of torch.distributed's default group; one worker if there is none."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    def shard(self, schedule: Schedule) -> Int[np.ndarray, "S L P 3"]:
        """Return this worker's lanes of a global schedule: rank, rank + size, ...

        Idle lanes are added until all workers have equally many lanes, and at least one.
        """
        if self.size == 1:
            return schedule
        steps, lanes = schedule.shape[:2]
        each = -(-lanes // self.size)
        padded = np.zeros((steps, each * self.size, *schedule.shape[2:]), schedule.dtype)
        padded[:, :lanes] = schedule
        return padded[:, self.rank :: self.size]

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model in DDP: parameters start as rank 0's, gradients are averaged."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, gradient_as_bucket_view=True)

    def sum(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return each vector summed over all workers, in one differentiable all-reduce in float64.

        The backward pass multiplies the gradient of this worker's vectors by ``size``. ``wrap``
        averages gradients over workers, so the model gets the gradient of the whole batch.
        Parameters outside the model depend on the sums only, which are equal on all workers, so
        their gradients need no correction.

        Args:
            parts: Vectors of this worker; the other workers have vectors of the same lengths.
        """
        if self.size == 1:
            return list(parts)
        flat = torch.cat([part.double() for part in parts])
        sums: Tensor = _SumOverWorkers.apply(flat, self.size)
        pieces = torch.split(sums, [len(part) for part in parts])
        return [piece.to(part.dtype) for piece, part in zip(pieces, parts, strict=True)]

    def all_reduce(self, values: np.ndarray) -> np.ndarray:
        """Return the elementwise sum over workers; exact where at most one value is not 0."""
        if self.size == 1:
            return values
        total = torch.from_numpy(values.copy())
        dist.all_reduce(total)
        return total.numpy()

    def broadcast_flag(self, flag: bool) -> bool:
        """Return the flag of rank 0."""
        if self.size == 1:
            return flag
        message = torch.tensor([flag])
        dist.broadcast(message, src=0)
        return bool(message)

    def broadcast_object(self, value: T) -> T:
        """Return the object of rank 0; it must be picklable."""
        if self.size == 1:
            return value
        box = [value if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers, such as BatchNorm's running statistics, into the model."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


SINGLE_WORKER = Workers()
"""Workers of a training in one process."""


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
