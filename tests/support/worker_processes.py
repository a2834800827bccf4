"""Groups of workers, each in a process of its own, that run all cases in turn."""

import os
import pickle
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mtl.optimisation.distributed import Workers
from tests.support.worker_cases import CASES

BACKENDS = {2: "gloo", 3: "cpu:gloo"}
"""By group size; the second is named by device, as one beside NCCL is."""
TIMEOUT_SECONDS = 1200
"""Of all cases and of each collective call: a group may wait for a smaller one's cases."""

Results = list[dict[str, Any]]
"""By rank, by case."""


def run_groups(folder: Path) -> dict[int, Results]:
    """What the workers of each group found, by its size; ``folder`` is empty."""
    spawned = torch.multiprocessing.spawn(_run, (folder,), max(BACKENDS), join=False)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        while not spawned.join(1):
            assert time.monotonic() < deadline, f"workers took over {TIMEOUT_SECONDS} s"
    finally:
        for process in spawned.processes:
            process.kill()
    return {
        size: [pickle.loads((folder / f"{size}-{rank}").read_bytes()) for rank in range(size)]
        for size in BACKENDS
    }


def _run(rank: int, folder: Path) -> None:
    """One worker, of each group in turn that it is needed in."""
    loopback = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    os.environ["GLOO_SOCKET_IFNAME"] = loopback
    for size in (size for size in BACKENDS if rank < size):
        dist.init_process_group(
            BACKENDS[size],
            init_method=f"file://{folder}/{size}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=TIMEOUT_SECONDS),
        )
        workers = Workers.from_process_group()
        found = {name: case(workers) for name, case in CASES.items()}
        (folder / f"{size}-{rank}").write_bytes(pickle.dumps(found))
        dist.barrier()
        if size == max(BACKENDS):
            os._exit(0)  # gloo may abort a process whose peer has gone while its threads end
        dist.destroy_process_group()
