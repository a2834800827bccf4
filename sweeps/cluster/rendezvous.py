"""Process group of DDP workers whose ``TCPStore`` listens on one network address only.

Workers find each other at a ``TCPStore`` (key-value server of torch) in the first worker's process.
Ray Train lets the store listen on all network interfaces. Here the store gets a socket that is
bound to one address: 127.0.0.1 on one machine, the node's address on a cluster.
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
"""The opened ``TCPStore``, if this process is the first worker and has not yet joined the group."""


@dataclass
class SingleAddressConfig(TorchConfig):
    """Torch config of Ray Train for DDP workers that meet at one network address only.

    With Ray Train's own config, torch's ``TCPStore`` listens on all network interfaces.
    """

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Class with which Ray Train sets up the torch process group of the workers."""
        return _SingleAddressBackend


class _SingleAddressBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Join the workers of a group to one torch process group, before they start to train.

        Unless the config names a backend, CPU tensors are sent by gloo and GPU tensors by NCCL.
        """
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
    """Open a ``TCPStore`` in this process, at which the DDP workers of a group find each other.

    Args:
        size: Number of workers in the group.

    Returns:
        Host address and port of the store.
    """
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
    """Join this process, a DDP worker, to a torch process group.

    Args:
        backend: Backend of ``torch.distributed``, such as ``gloo``.
        host: Host address of the ``TCPStore`` at which the workers find each other.
        port: Port of the ``TCPStore``.
        rank: Rank of this process; the process with rank 0 has opened the ``TCPStore``.
        size: Number of processes in the group.
        seconds: Timeout of operations between the processes, in seconds.
    """
    timeout = timedelta(seconds=seconds)
    store = _STORES.pop() if rank == 0 else TCPStore(host, port, size, timeout=timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
