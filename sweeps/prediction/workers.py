"""Spans of videos -> Ray Data -> a pool of actors that each hold the ensemble -> their outputs."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from jaxtyping import Float32
from ray import ObjectRef

from mtl.ensemble import Ensemble, Source, parse_export
from mtl.ensemble.folder import Files
from mtl.tasks import OUTPUT_COLUMNS
from sweeps.data.actor_pool import map_in_actors
from sweeps.data.ray_data import from_any_folder


class Predictor:
    """One actor of the pool.

    Args:
        shared: References to the files of the export and to the ``Source``, in the object store.
        where: The export, for messages.
        threads: Of torch.
    """

    def __init__(self, shared: tuple[ObjectRef[Any], ...], where: str, threads: int) -> None:
        torch.set_num_threads(threads)
        files: Files
        files, self.source = ray.get(list(shared))
        self.ensemble = Ensemble(parse_export(files, where))

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """The outputs of the span [start, stop) of the source's rows."""
        start, stop = (int(batch[key][0]) for key in ("start", "stop"))
        outputs = self.ensemble.outputs(*self.source.read(slice(start, stop)))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(outputs.ravel()), len(OUTPUT_COLUMNS))
        return pa.table([pa.array(np.arange(start, stop)), lists], names=["row", "outputs"])


def predict_spans(
    files: Files,
    where: str,
    source: Source,
    spans: list[slice],
    workers: int,
    cpus: int,
    gpus: float,
) -> Iterator[tuple[slice, Float32[np.ndarray, "N 22"]]]:
    """The outputs of each span of a source's rows, in order, as they come.

    Args:
        files: The export.
        where: It came from, for messages.
        source: What is to be predicted.
        spans: Of whole videos.
        workers: Actors.
        cpus: Of each, also its torch threads.
        gpus: Of each.

    Raises:
        InputError: A row that breaks the contract (NaN ...), with its file and number.
    """
    source = replace(source, dataset=from_any_folder(source.dataset))
    items = [{"start": span.start, "stop": span.stop} for span in spans]
    tables = map_in_actors(
        Predictor, (files, source), (where, cpus), items, workers, cpus, gpus, ordered=True
    )
    for span, table in zip(spans, tables, strict=True):
        rows = table["row"].to_numpy()
        assert (rows == np.arange(span.start, span.stop)).all(), f"{span} came out of order"
        outputs = table["outputs"].combine_chunks().flatten().to_numpy()
        yield span, outputs.reshape(-1, len(OUTPUT_COLUMNS))
