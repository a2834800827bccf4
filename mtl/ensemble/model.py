"""Prediction with an exported ensemble: the weighted mean of its models, post-processed.

Shapes: N listed frames (frames named in the annotation files).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from mtl.dataset import Dataset, Listing
from mtl.ensemble.folder import Export, Member, parse_export, read_files
from mtl.ensemble.source import SPAN_BYTES, Source
from mtl.models.frameworks import Framework
from mtl.optimisation.device import choose_device
from mtl.predictions.table import Predictions
from mtl.sequences.feature_table import FeatureTable
from mtl.sequences.join import Part, join_any, part_of
from mtl.tasks import OUTPUT_COLUMNS, TASKS
from mtl.training.inference import TrialData, place_model, predict_tasks

Device = Literal["auto", "cpu", "cuda"]


class Ensemble:
    """Exported ensemble that predicts datasets; its models are built and placed on a device once.

    Each member runs in the precision of its config.

    Args:
        export: Content of the export.
        device: ``auto`` (CUDA if available, else the CPU), ``cpu`` or ``cuda``.

    Raises:
        InputError: ``device`` is ``cuda`` and no GPU is visible.
    """

    def __init__(self, export: Export, device: Device = "auto") -> None:
        self.export = export
        self.device = choose_device(device)
        self._data = {name: self._inference_data(member) for name, member in export.members.items()}
        self._models = {name: self._models_of(name) for name in export.members}

    @classmethod
    def load(cls, folder: str | Path, device: Device = "auto") -> "Ensemble":
        """Load an exported ensemble from its folder.

        Args:
            folder: Folder of the export.
            device: ``auto`` (CUDA if available, else the CPU), ``cpu`` or ``cuda``.

        Raises:
            InputError: The folder is no export, is damaged or has another format version, or
                ``device`` is ``cuda`` and no GPU is visible.
        """
        return cls(parse_export(read_files(folder), folder), device)

    def predict(
        self, dataset: Dataset, raw: bool = False, span_bytes: int = SPAN_BYTES
    ) -> Predictions:
        """Predict every frame that a dataset's annotation files list, in the order of the listing.

        The outputs of a frame without features are those of the nearest frame of its video; the
        outputs of a video without any features are the mean training labels. The labels and
        statistics of the dataset are not used.

        Args:
            dataset: Dataset with the feature sets that the members were trained on.
            raw: True for the weighted mean of the members' outputs without post-processing.
            span_bytes: Bytes of features that are held in memory at once; this number does not
                change the outputs.

        Raises:
            InputError: A feature set is missing or has another number of features than in the
                training, or no listed frame has features.
        """
        source = Source.open(self.export, dataset)
        source.describe_missing_features(self.export)
        outputs = np.empty((len(source.frame), len(OUTPUT_COLUMNS)), np.float32)
        for span in source.spans(span_bytes):
            outputs[span] = self.outputs(*source.read(span), raw)
        return Predictions(source.video, source.frame, source.names, outputs)

    def outputs(
        self, listing: Listing, tables: Mapping[str, FeatureTable], raw: bool = False
    ) -> Float32[np.ndarray, "N 22"]:
        """Predict listed frames of whole videos from features in memory.

        Args:
            listing: Listed frames (frames named in the annotation files), all those of each video.
            tables: Feature sets of the members (models of the ensemble) by name; they may hold
                other videos too.
            raw: True for the weighted mean of the members' outputs without post-processing.

        Returns:
            The outputs of each listed frame, shape (frames, 22), in the columns ``OUTPUT_COLUMNS``;
            NaN for tasks that no member predicts.
        """
        totals = np.zeros((len(listing.frame), len(OUTPUT_COLUMNS)))
        weight_sums = np.zeros(len(OUTPUT_COLUMNS))
        for name, outputs in self.member_outputs(listing, tables):
            for task, weight in self.export.members[name].fusion_weights.items():
                columns = TASKS[task].outputs
                totals[:, columns] += weight * outputs[:, columns].astype(np.float64)
                weight_sums[columns] += weight
        # A task that no member predicts is 0 / 0 = NaN.
        with np.errstate(invalid="ignore"):
            fused = (totals / weight_sums).astype(np.float32)
        return fused if raw else self.export.postprocessing(fused, listing.video, listing.frame)

    def member_outputs(
        self, listing: Listing, tables: Mapping[str, FeatureTable]
    ) -> Iterator[tuple[str, Float32[np.ndarray, "N 22"]]]:
        """Yield the name of each member (model of the ensemble) and its outputs for listed frames.

        The outputs, shape (frames, 22), are NaN for tasks that the ensemble does not take from the
        member.

        Args:
            listing: Listed frames (frames named in the annotation files), all those of each video.
            tables: Feature sets of the members by name; they may hold other videos too.
        """
        parts: dict[tuple[object, ...], Part] = {}
        for name, member in self.export.members.items():
            config = member.config
            features, sequence = config.features, config.sequence
            key = (features, sequence.frames, sequence.frame_stride)
            if key not in parts:
                chosen = [tables[name] for name in features]
                joined = join_any(listing, chosen, sequence.frames, sequence.frame_stride)
                parts[key] = part_of(listing, joined, listing.names)
            models, epochs = self._models[name], member.epochs
            yield (
                name,
                predict_tasks(
                    models.__getitem__, config, self._data[name], parts[key], epochs, self.device
                ),
            )

    def _inference_data(self, member: Member) -> TrialData:
        """Return the data that predictions with a member (model of the ensemble) need.

        They are its tasks, the feature statistics and the outputs for videos without features.
        """
        sets = [self.export.statistics[name] for name in member.config.features]
        mean, std = (np.concatenate(arrays) for arrays in zip(*sets, strict=True))
        return TrialData(member.tasks, (), {}, mean, std, self.export.prior)

    def _models_of(self, name: str) -> dict[int, Framework]:
        """Return a member's models by epoch, one for each epoch of which it has weights."""
        member, width = self.export.members[name], len(self._data[name].mean)
        models = {}
        for epoch, weights in member.weights.items():
            models[epoch] = place_model(member.config, width, member.tasks, self.device)
            models[epoch].load_state_dict(weights)
        return models
