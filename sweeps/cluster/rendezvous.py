"""Rendezvous of a group of DDP workers at a store that listens on one address only.

The rendezvous of Ray Train lets torch's ``TCPStore`` listen on all network interfaces, whatever
address it is given. Here the store gets a socket that is bound to the first worker's address:
127.0.0.1 on one machine, the node's address on a cluster.
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
"""Store that the first worker has opened, kept until it joins the group."""


@dataclass
class SingleAddressConfig(TorchConfig):
    """Torch setup of Ray Train with the rendezvous of this module."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Class that sets up the process group."""
        return _SingleAddressBackend


class _SingleAddressBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Join the workers to one process group: NCCL between GPUs, gloo between CPUs."""
        gpus = worker_group.get_resources_per_worker().get("GPU", 0)
        backend = backend_config.backend or ("cpu:gloo,cuda:nccl" if gpus else "gloo")
        size, seconds = len(worker_group), backend_config.timeout_s
        host, port = worker_group.execute_single(0, open_store, size)
        calls = [
            worker_group.execute_single_async(
                rank, join_group, backend, host, port, rank, size, seconds
            )
            for rank in range(size)
        ]
        ray.get(calls)


def open_store(size: int) -> tuple[str, int]:
    """Open the store of a group of ``size`` workers in this process; return its host and port."""
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


def join_group(backend: str, host: str, port: int, rank: int, size: int, seconds: int) -> None:
    """Join this process to the process group of the store at ``host:port``.

    Args:
        backend: Backend of ``torch.distributed``.
        host: Address of the store.
        port: Port of the store.
        rank: Rank of this process; rank 0 has opened the store.
        size: Number of processes in the group.
        seconds: Timeout of the group's operations, in seconds.
    """
    timeout = timedelta(seconds=seconds)
    store = _STORES.pop() if rank == 0 else TCPStore(host, port, size, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
