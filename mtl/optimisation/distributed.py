"""DDP workers: processes that train one model together, each on some rows (lanes) of a batch.

Several workers train the same model as one worker: losses and gradients are those of the whole
batch, and every value that controls the training is equal on all workers.

Shapes: S steps, L lanes of one worker, P pieces of a window (see ``mtl.sequences.windows``).
"""

from collections.abc import Callable, Sequence
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
    """Rank of this DDP worker, number of workers, and the collective operations between them.

    All workers must call the same operations in the same order, because each call waits for the
    others. With one worker every method returns its argument. Some operations exchange CPU memory,
    so training on GPUs needs a CPU backend too: ``cpu:gloo,cuda:nccl``.

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
        """Return the lanes (rows of every batch) that this worker trains on.

        They are the lanes rank, rank + size, ... of the batches. Empty lanes are added so that all
        workers have the same number of lanes, and at least one. The result has the form of
        ``schedule``, with fewer lanes.

        Args:
            schedule: Pieces of every window of every batch, shape (steps, lanes, pieces of a
                window, 3). The three numbers of a piece are the index of its sequence, its first
                frame and its length.
        """
        if self.size == 1:
            return schedule
        steps, lanes = schedule.shape[:2]
        each = -(-lanes // self.size)
        padded = np.zeros((steps, each * self.size, *schedule.shape[2:]), schedule.dtype)
        padded[:, :lanes] = schedule
        return padded[:, self.rank :: self.size]

    def wrap(self, model: nn.Module) -> nn.Module:
        """Wrap a model in DDP, which starts with rank 0's parameters and sums the gradients.

        They are summed, not averaged, because ``sum`` gives each worker its part of the gradient of
        the whole batch. With a single worker the model itself is returned.
        """
        if self.size == 1:
            return model
        wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
        wrapped.register_comm_hook(None, _sum_gradients)
        return wrapped

    def sum(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return each vector summed over all workers, in one differentiable all-reduce in float64.

        The gradient of this worker's vectors is that of the sums. Parameters outside the model
        depend on the sums only, which are equal on all workers, so their gradients are equal too.

        Args:
            parts: Vectors of this worker; the other workers have vectors of the same lengths.
        """
        if self.size == 1:
            return list(parts)
        flat = torch.cat([part.double() for part in parts])
        sums: Tensor = _SumOverWorkers.apply(flat)
        pieces = torch.split(sums, [len(part) for part in parts])
        return [piece.to(part.dtype) for piece, part in zip(pieces, parts, strict=True)]

    def combine_rows(self, rows: Tensor, combine: Callable[[Tensor], Tensor]) -> Tensor:
        """Sum a matrix over all workers and return the combination of its rows.

        Only rank 0 calls ``combine``, and all workers get its result, so they stay equal to the bit
        even if it draws random numbers. Rank 0's generator has the seed of a single worker's.

        Args:
            rows: Matrix of this worker, of equal shape on all workers, such as each task's gradient
                (one row for each task). Several workers overwrite it.
            combine: Function of the summed matrix that returns one row.
        """
        if self.size == 1:
            return combine(rows)
        dist.reduce(rows, dst=0)
        combined = combine(rows) if self.rank == 0 else torch.empty_like(rows[0])
        dist.broadcast(combined, src=0)
        return combined

    def all_reduce(self, values: np.ndarray) -> np.ndarray:
        """Return the elementwise sum of an array over all workers.

        An element of the sum has no rounding error if it is 0 on all workers but one.
        """
        if self.size == 1:
            return values
        total = torch.from_numpy(values.copy())
        dist.all_reduce(total)
        return total.numpy()

    def broadcast_flag(self, flag: bool) -> bool:
        """Return the flag that rank 0 passed, on every worker."""
        if self.size == 1:
            return flag
        message = torch.tensor([flag])
        dist.broadcast(message, src=0)
        return bool(message)

    def broadcast_object(self, value: T) -> T:
        """Return the object that rank 0 passed, on every worker; the object must be picklable."""
        if self.size == 1:
            return value
        box = [value if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers, such as running statistics of batch norms, into the model."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


SINGLE_WORKER = Workers()
"""The only worker of a training in one process, without DDP."""


class _SumOverWorkers(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


def _sum_gradients(
    _: None, bucket: torch._C._distributed_c10d.GradBucket
) -> torch.futures.Future[Tensor]:
    """Sum a bucket of gradients over the workers: DDP's hook in place of its average."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    return work.get_future().then(lambda future: future.value()[0])
