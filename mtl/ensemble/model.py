"""An ensemble at work: features in, the members' mean and what is done to it out.

Shapes: N listed frames.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32

from mtl.dataset import Dataset, Listing
from mtl.ensemble.folder import Export, Member, parse_export, read_files
from mtl.ensemble.source import SPAN_BYTES, Source
from mtl.errors import InputError
from mtl.models.frameworks import Framework
from mtl.optimisation.device import choose_device
from mtl.predictions.table import Predictions
from mtl.sequences.feature_table import FeatureTable
from mtl.sequences.join import Part, join_any, part_of
from mtl.tasks import OUTPUT_COLUMNS, TASKS
from mtl.training.inference import TrialData, place_model, predict_tasks

Device = Literal["auto", "cpu", "cuda"]


class Ensemble:
    """The models of an export, built once.

    Args:
        export: What it is.
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``; the precision there is what
            each member's config says.

    Raises:
        InputError: If there is no such device.
    """

    def __init__(self, export: Export, device: Device = "auto") -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise InputError("device = 'cuda', but no GPU is visible: leave it at auto")
        self.export = export
        self.device = choose_device(device)
        self._data = {name: self._data_of(member) for name, member in export.members.items()}
        self._models = {name: self._models_of(name) for name in export.members}

    @classmethod
    def load(cls, folder: str | Path, device: Device = "auto") -> "Ensemble":
        """An exported folder.

        Raises:
            InputError: If it is none, is damaged, or is of another version.
        """
        return cls(parse_export(read_files(folder), folder), device)

    def predict(
        self, dataset: Dataset, raw: bool = False, span_bytes: int = SPAN_BYTES
    ) -> Predictions:
        """Outputs of every listed frame of a dataset, in the listing's order.

        A frame without features is predicted from the nearest one of its video, a video without any
        from the mean of the training labels. Neither the dataset's labels nor its statistics count.

        Args:
            dataset: With the feature sets that the members were trained on.
            raw: The members' mean as it is, before post-processing.
            span_bytes: How much of its features is held at once; it does not change the outputs.

        Raises:
            InputError: If a feature set is missing, has another width or none of the listed frames.
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
        """Outputs of listed frames of whole videos, as ``predict`` has them.

        Args:
            listing: The frames.
            tables: The members' feature sets by name; they may hold other videos too.
            raw: The members' mean as it is, before post-processing.
        """
        totals = np.zeros((len(listing.frame), len(OUTPUT_COLUMNS)))
        counts = np.zeros(len(OUTPUT_COLUMNS))
        for name, own in self.member_outputs(listing, tables):
            for task, count in self.export.members[name].counts.items():
                where = TASKS[task].outputs
                totals[:, where] += count * own[:, where].astype(np.float64)
                counts[where] += count
        # A task that no member serves is 0 / 0.
        with np.errstate(invalid="ignore"):
            fused = (totals / counts).astype(np.float32)
        return fused if raw else self.export.postprocessing(fused, listing.video, listing.frame)

    def member_outputs(
        self, listing: Listing, tables: Mapping[str, FeatureTable]
    ) -> Iterator[tuple[str, Float32[np.ndarray, "N 22"]]]:
        """Each member's name and outputs, NaN for tasks that it does not serve in the ensemble."""
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

    def _data_of(self, member: Member) -> TrialData:
        """What ``predict`` needs to know of a member's training."""
        sets = [self.export.statistics[name] for name in member.config.features]
        mean, std = (np.concatenate(arrays) for arrays in zip(*sets, strict=True))
        return TrialData(member.tasks, (), {}, mean, std, self.export.prior)

    def _models_of(self, name: str) -> dict[int, Framework]:
        """A member's model as it was after each epoch that is needed."""
        member, width = self.export.members[name], len(self._data[name].mean)
        models = {}
        for epoch, weights in member.weights.items():
            models[epoch] = place_model(member.config, width, member.tasks, self.device)
            models[epoch].load_state_dict(weights)
        return models
