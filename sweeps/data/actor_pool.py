"""Pool of Ray actors that maps items to Arrow tables, one item at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext, from_items

from sweeps.data.ray_data import set_up_ray_data, user_error


def map_in_actors(
    actor: Callable[..., Any],
    shared: Sequence[Any],
    arguments: Sequence[Any],
    items: Sequence[Mapping[str, Any]],
    workers: int,
    cpus: int,
    gpus: float,
    *,
    ordered: bool,
) -> Iterator[pa.Table]:
    """Map each item in one of several equal actors and yield the resulting tables.

    Args:
        actor: Class of the actors. Its constructor takes a tuple of references to the ``shared``
            objects, then ``arguments``; its call takes a batch that holds one item and returns an
            Arrow table.
        shared: Objects that are put into the object store once, for all actors.
        arguments: Further arguments of the constructor.
        items: Items to map.
        workers: Number of actors.
        cpus: CPUs that each actor reserves.
        gpus: GPUs that each actor reserves.
        ordered: True to yield the tables in the order of the items, False to yield each as soon as
            it is ready.

    Raises:
        InputError: If an actor raises an ``InputError``; the message is the actor's.
    """
    set_up_ray_data()
    DataContext.get_current().execution_options.preserve_order = ordered
    references = tuple(ray.put(value) for value in shared)
    mapped = from_items(list(items), override_num_blocks=len(items)).map_batches(
        actor,
        fn_constructor_args=(references, *arguments),
        batch_size=1,
        concurrency=workers,
        num_cpus=cpus,
        num_gpus=gpus,
    )
    try:
        yield from mapped.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except Exception as error:
        raise user_error(error) from None
