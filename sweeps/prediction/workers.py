"""Prediction of spans of videos with a pool of Ray actors that each hold the ensemble."""

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
from sweeps.data.ray_data import with_absolute_address


class Predictor:
    """Actor that predicts spans of rows with the ensemble.

    Args:
        shared: References to the files of the export and to the ``Source``, in the object store.
        model: Path of the export or run folder, for error messages.
        threads: Number of torch threads.
    """

    def __init__(self, shared: tuple[ObjectRef[Any], ...], model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        files: Files
        files, self.source = ray.get(list(shared))
        self.ensemble = Ensemble(parse_export(files, model))

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """Return the outputs of one span.

        Args:
            batch: ``start`` and ``stop``, arrays of length 1: the span [start, stop) of the
                source's rows.

        Returns:
            Table with the columns ``row`` and ``outputs`` (lists of 22 numbers).
        """
        start, stop = (int(batch[key][0]) for key in ("start", "stop"))
        outputs = self.ensemble.outputs(*self.source.read(slice(start, stop)))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(outputs.ravel()), len(OUTPUT_COLUMNS))
        return pa.table([pa.array(np.arange(start, stop)), lists], names=["row", "outputs"])


def predict_spans(
    files: Files,
    model: str,
    source: Source,
    spans: list[slice],
    workers: int,
    cpus: int,
    gpus: float,
) -> Iterator[tuple[slice, Float32[np.ndarray, "N 22"]]]:
    """Yield each span with its outputs, in the order of the spans, as soon as they are ready.

    Args:
        files: Files of the exported model.
        model: Path of the export or run folder, for error messages.
        source: Frames to predict and their features.
        spans: Spans of the source's rows; each holds whole videos.
        workers: Number of actors.
        cpus: CPUs of each actor, and its number of torch threads.
        gpus: GPUs of each actor.

    Raises:
        InputError: If a row of the features breaks the dataset's contract, for example with a NaN;
            the message names its file and number.
    """
    source = replace(source, dataset=with_absolute_address(source.dataset))
    items = [{"start": span.start, "stop": span.stop} for span in spans]
    tables = map_in_actors(
        Predictor, (files, source), (model, cpus), items, workers, cpus, gpus, ordered=True
    )
    for span, table in zip(spans, tables, strict=True):
        rows = table["row"].to_numpy()
        assert (rows == np.arange(span.start, span.stop)).all(), f"{span} came out of order"
        outputs = table["outputs"].combine_chunks().flatten().to_numpy()
        yield span, outputs.reshape(-1, len(OUTPUT_COLUMNS))
