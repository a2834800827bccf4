"""How the workers of a group find each other: at a store that listens on one address only.

Ray's own rendezvous opens torch's ``TCPStore`` on all interfaces, whatever address it is given.
Here it lies on a socket bound to the first worker's address: 127.0.0.1 on one machine, the node's
on a cluster.
"""

import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from torch.distributed import TCPStore  # type: ignore[attr-defined]

_STORES: list[TCPStore] = []
"""The one that the first worker serves, kept between its two calls."""


@dataclass
class OneAddress(TorchConfig):
    """Ray Train's torch setup with this rendezvous."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets the process group up."""
        return _OneAddressBackend


class _OneAddressBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Join the workers: NCCL between GPUs, gloo between CPUs."""
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        backend = backend_config.backend or ("cpu:gloo,cuda:nccl" if gpus else "gloo")
        size, seconds = len(worker_group), backend_config.timeout_s
        host, port = worker_group.execute_single(0, serve, size)
        joining = [
            worker_group.execute_single_async(rank, join, backend, host, port, rank, size, seconds)
            for rank in range(size)
        ]
        ray.get(joining)


def serve(size: int) -> tuple[str, int]:
    """Open the store in this process; its address."""
    host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    _STORES[:] = [
        TCPStore(
            host,
            port,
            size,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    ]
    return host, port


def join(backend: str, host: str, port: int, rank: int, size: int, seconds: int) -> None:
    """Join the process group of the store at this address."""
    timeout = timedelta(seconds=seconds)
    store = _STORES.pop() if rank == 0 else TCPStore(host, port, size, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
