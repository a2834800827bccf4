"""--workers, --cpus, --gpus, --address: what the programs with a pool of workers share."""

import argparse

from mtl.errors import InputError
from sweeps.cluster.capacity import fitting, there_is
from sweeps.cluster.connection import Cluster


def add_pool_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a pool of workers on Ray."""
    parser.add_argument(
        "--workers", default="auto", metavar="N", help="processes (auto: as many as fit)"
    )
    parser.add_argument("--cpus", type=int, default=1, help="of each worker (1)")
    parser.add_argument("--gpus", type=float, default=0.0, help="of each worker (0)")
    parser.add_argument(
        "--address", help="a running Ray cluster; RAY_ADDRESS, else this machine by default"
    )


def check_pool(words: argparse.Namespace) -> None:
    """Refuse what can be no pool anywhere; InputError names the option."""
    if words.workers != "auto" and not (words.workers.isdecimal() and int(words.workers)):
        raise InputError(f"--workers {words.workers} must be auto or at least 1")
    if words.cpus < 1:
        raise InputError(f"--cpus {words.cpus} must be at least 1")
    if words.gpus < 0 or not (words.gpus <= 1 or words.gpus.is_integer()):
        raise InputError(f"--gpus {words.gpus:g} must be a whole number, or a share below 1")


def pool_workers(words: argparse.Namespace, cluster: Cluster) -> int:
    """How many workers: as many as fit, or as asked; InputError where they do not fit."""
    fits = fitting(words.cpus, words.gpus, cluster.nodes, cluster.can_come)
    auto = words.workers == "auto"
    asked = 1 if auto else int(words.workers)
    if fits < asked:
        each = f"--cpus {words.cpus}" + (f" and --gpus {words.gpus:g}" if words.gpus else "")
        all_of_them = each if auto else f"--workers {asked} x ({each})"
        have = there_is(cluster.nodes, cluster.can_come)
        raise InputError(f"{all_of_them} is more than {have}: lower it")
    return fits if auto else asked
