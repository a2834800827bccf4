"""Groups of DDP workers in separate processes that run all worker cases one after another."""

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
"""Backend of torch.distributed by group size; the second has the form used together with NCCL."""
TIMEOUT_SECONDS = 1200
"""Limit for all cases and for each collective call, which may wait for a smaller group's cases."""

Results = list[dict[str, Any]]
"""Result of each case by name, for each rank."""


def run_groups(folder: Path) -> dict[int, Results]:
    """Run all cases in groups of all sizes and return the results by group size.

    Args:
        folder: Empty folder for the rendezvous and the results.
    """
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
    """Run all cases as worker ``rank`` of each group that is large enough."""
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
        results = {name: case(workers) for name, case in CASES.items()}
        (folder / f"{size}-{rank}").write_bytes(pickle.dumps(results))
        dist.barrier()
        if size == max(BACKENDS):
            os._exit(0)  # gloo may abort a process that shuts down after its peer
        dist.destroy_process_group()
