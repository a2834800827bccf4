"""Prediction of videos by a pool of Ray actors, each of which holds the whole ensemble."""

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
    """Ray actor that predicts frames with the ensemble of an exported model.

    Args:
        shared: Object references to the files of the exported model, and to the ``Source`` (frames
            to predict and locations of their features).
        model: Path of the exported model or run folder, for error messages.
        threads: Number of torch threads.
    """

    def __init__(self, shared: tuple[ObjectRef[Any], ...], model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        files: Files
        files, self.source = ray.get(list(shared))
        self.ensemble = Ensemble(parse_export(files, model))

    def __call__(self, batch: Mapping[str, np.ndarray]) -> pa.Table:
        """Predict a range of frames.

        Args:
            batch: ``start`` and ``stop``, arrays of length 1: the range [start, stop) of
                rows of the ``Source``, the list of frames to predict.

        Returns:
            Arrow table with the columns ``row`` and ``outputs`` (lists of 22 numbers).
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
    """Predict ranges of frames with several Ray actors; yield each range with its outputs (N, 22).

    The ranges are yielded in the given order, each as soon as it and all before it are ready.

    Args:
        files: Content of the exported model's files.
        model: Path of the exported model or run folder, for error messages.
        source: Frames to predict, and locations of their features.
        spans: Ranges of rows of the source; each holds the N frames of some whole videos.
        workers: Number of actors.
        cpus: CPUs of each actor, and its number of torch threads.
        gpus: GPUs of each actor.

    Raises:
        InputError: If a row of the features breaks the dataset's contract, for example with a NaN;
            the message names the file and the row's number.
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
