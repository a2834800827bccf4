"""Command-line arguments of the programs that use a pool of Ray workers."""

import argparse

from mtl.errors import InputError
from sweeps.cli.arguments import add_address_argument
from sweeps.cluster.capacity import describe_capacity, worker_capacity
from sweeps.cluster.connection import Cluster


def add_pool_arguments(parser: argparse.ArgumentParser, workers: str = "auto") -> None:
    """Add the options ``--workers``, ``--cpus``, ``--gpus`` and ``--address`` of a pool of workers.

    Args:
        parser: The program's parser.
        workers: Default of ``--workers``: ``auto`` or a number.
    """
    parser.add_argument(
        "--workers",
        default=workers,
        metavar="N",
        help=f"number of worker processes, or auto for as many as fit (default: {workers})",
    )
    parser.add_argument(
        "--cpus", type=int, default=1, metavar="N", help="CPUs of each worker (default: 1)"
    )
    parser.add_argument(
        "--gpus",
        type=float,
        default=0.0,
        metavar="N",
        help="GPUs of each worker, which may be a fraction below 1 (default: 0)",
    )
    add_address_argument(parser)


def check_pool(arguments: argparse.Namespace) -> None:
    """Check the values of ``--workers``, ``--cpus`` and ``--gpus`` without a cluster.

    Args:
        arguments: Parsed arguments of the command line.

    Raises:
        InputError: If a value is not allowed, such as ``--cpus 0``; the message names the option.
    """
    workers = arguments.workers
    if workers != "auto" and not (workers.isdecimal() and int(workers)):
        raise InputError(f"--workers {workers} must be auto or at least 1")
    if arguments.cpus < 1:
        raise InputError(f"--cpus {arguments.cpus} must be at least 1")
    if arguments.gpus < 0 or not (arguments.gpus <= 1 or arguments.gpus.is_integer()):
        raise InputError(f"--gpus {arguments.gpus:g} must be a whole number, or a share below 1")


def pool_workers(arguments: argparse.Namespace, cluster: Cluster) -> int:
    """Return the number of workers to start.

    ``--workers auto`` gives the number of workers that fit on the cluster; otherwise the value of
    ``--workers`` is returned.

    Args:
        arguments: Parsed arguments of the command line, with the CPUs and GPUs of each worker.
        cluster: The connected Ray cluster.

    Raises:
        InputError: If not even one worker fits on the cluster, or fewer fit than ``--workers``.
    """
    cpus, gpus = arguments.cpus, arguments.gpus
    capacity = worker_capacity(cpus, gpus, cluster.nodes, cluster.autoscaler)
    auto = arguments.workers == "auto"
    requested = 1 if auto else int(arguments.workers)
    if capacity < requested:
        per_worker = f"--cpus {cpus}" + (f" and --gpus {gpus:g}" if gpus else "")
        total = per_worker if auto else f"--workers {requested} x ({per_worker})"
        available = describe_capacity(cluster.nodes, cluster.autoscaler)
        raise InputError(f"{total} is more than {available}: lower it")
    return capacity if auto else requested
