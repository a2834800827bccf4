"""Pool of Ray actors that turns each of many items into an Arrow table."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext, from_items

from sweeps.data.ray_data import set_up_ray_data, unwrap_input_error


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
    """Yield one Arrow table for each item, computed by several Ray actors in parallel.

    Args:
        actor: Class of the actors. The constructor takes a tuple of Ray object references, one for
            each object in ``shared``, and then ``arguments``. ``__call__`` takes one item, in which
            each value is an array of length 1, and returns an Arrow table.
        shared: Objects that all actors read; they are put into Ray's object store once.
        arguments: Further arguments of the constructor.
        items: Items, each a mapping from names to plain values.
        workers: Number of actors.
        cpus: CPUs that each actor reserves.
        gpus: GPUs that each actor reserves.
        ordered: True to yield the tables in the order of the items, False to yield each as soon as
            it is ready.

    Raises:
        InputError: If an actor raises an ``InputError``; the message is the same.
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
        raise unwrap_input_error(error) from None
