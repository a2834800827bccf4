"""Frames to predict and their features, read from a dataset one span of videos at a time.

Shapes: N listed frames (frames named in the annotation files), V videos.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32

from mtl.dataset import SPLITS, Dataset, FeatureIndex, Listing
from mtl.ensemble.folder import Export
from mtl.ensemble.spans import video_spans
from mtl.errors import InputError
from mtl.sequences.feature_table import FeatureTable, index_table, read_table
from mtl.sequences.join import count_missing_features
from mtl.strict import did_you_mean
from mtl.tasks import OUTPUT_COLUMNS

SPAN_BYTES = 64 * 2**20
"""Maximum bytes of the features and outputs of videos read at once, unless one video has more."""


@dataclass(frozen=True, eq=False)
class Source:
    """Frames of a dataset to be predicted, and the table rows that hold their features.

    It holds no features itself, so it is small when pickled.

    Attributes:
        dataset: The opened dataset.
        indices: Lookup from the video and number of a frame to the row of the frame's features,
            by the name of each feature set that the ensemble needs.
        all_frames: True if a model of the ensemble also processes frames that are not listed.
        names: Names of the videos.
        splits: Split of each video.
        video: Index into ``names`` of each listed frame (frame named in the annotation files).
        frame: Frame number of each listed frame.
    """

    dataset: Dataset
    indices: Mapping[str, FeatureIndex]
    all_frames: bool
    names: tuple[str, ...]
    splits: tuple[str, ...]
    video: Int32[np.ndarray, " N"]
    frame: Int32[np.ndarray, " N"]

    @classmethod
    def open(cls, export: Export, dataset: Dataset, split: str | None = None) -> "Source":
        """Look up a dataset's listed frames (named in its annotation files) and their feature rows.

        Args:
            export: Content of the ensemble's export.
            dataset: Dataset to predict.
            split: Split whose frames are predicted; None for all listed frames.

        Raises:
            InputError: The dataset lacks a feature set of the ensemble, a set has another number
                of features than in the training, or the dataset lists no frames of the split.
        """
        check_features(export, dataset)
        listing = dataset.listing(labels=False)
        if split is not None:
            rows = np.flatnonzero(listing.split == SPLITS.index(split))
            if not len(rows):
                raise InputError(f"the dataset {dataset.address} lists no {split} frames")
            listing = listing.take(rows)
        return cls(
            dataset,
            {name: dataset.index(name) for name in export.manifest.features},
            any(m.config.sequence.frames == "all" for m in export.members.values()),
            listing.names,
            listing.splits,
            listing.video,
            listing.frame,
        )

    @property
    def listing(self) -> Listing:
        """Listing (videos and frame numbers) of the frames to be predicted, without labels."""
        return Listing.unlabelled(self.names, self.splits, self.names, self.video, self.frame)

    def spans(self, max_bytes: int = SPAN_BYTES, min_spans: int = 1) -> list[slice]:
        """Divide the frames to predict into consecutive slices, each of whole videos.

        One slice is read and predicted at once.

        Args:
            max_bytes: Maximum bytes of features and outputs in a slice, unless one video has more.
            min_spans: Approximate minimum number of slices, if there are that many videos.
        """
        sizes = self._video_bytes()
        return video_spans(self.video, sizes, min(max_bytes, int(sizes.sum()) // min_spans))

    def _video_bytes(self) -> Int[np.ndarray, " V"]:
        """Return the bytes of each video's features and outputs in float32, shape (videos,)."""
        place = {name: number for number, name in enumerate(self.names)}
        sizes = 4 * len(OUTPUT_COLUMNS) * np.bincount(self.video, minlength=len(place))
        for name, index in self.indices.items():
            rows = dict(zip(index.names, np.diff(index.starts).tolist(), strict=True))
            frames = np.array([rows.get(video, 0) for video in self.names])
            sizes += 4 * self.dataset.width(name) * frames
        return sizes

    def read(self, span: slice) -> tuple[Listing, dict[str, FeatureTable]]:
        """Read the features of the videos in one slice of the frames to predict.

        Args:
            span: One of the slices that ``spans`` returned.

        Returns:
            The frames in the slice, and the features of their videos by the name of the feature
            set.

        Raises:
            InputError: A row of a feature set is invalid (such as NaN); the message names its file
                and number.
        """
        listing = self.listing.take(span)
        listed = None if self.all_frames else listing
        videos = set(listing.names)
        return listing, {
            name: read_table(self.dataset, name, listed, videos, index)
            for name, index in self.indices.items()
        }

    def describe_missing_features(self, export: Export) -> list[str]:
        """Return sentences that tell how frames without features are predicted.

        Only listed frames (frames named in the annotation files) count. There is one sentence for
        each combination of feature sets that a model of the ensemble uses and that lacks listed
        frames.

        Args:
            export: Content of the ensemble's export.

        Raises:
            InputError: No listed frame has features.
        """
        tables = {name: index_table(name, index) for name, index in self.indices.items()}
        used = [(m.config.features, m.config.sequence.frames) for m in export.members.values()]
        sentences = []
        for names, which in dict.fromkeys(used):
            chosen = [tables[name] for name in names]
            nearest, prior = count_missing_features(self.listing, chosen, which)
            if nearest + prior:
                sentences.append(
                    f"{'+'.join(names)}: of the listed frames without features {nearest} are "
                    f"predicted from their video's nearest frame, {prior} from the training "
                    "labels' mean"
                )
        return list(dict.fromkeys(sentences))


def check_features(export: Export, dataset: Dataset) -> None:
    """Check that a dataset has the ensemble's feature sets, with as many features as in training.

    Args:
        export: Content of the ensemble's export.
        dataset: Dataset to predict.

    Raises:
        InputError: A feature set is missing or has another number of features than in the
            training; the message names the set.
    """
    known = dataset.feature_sets()
    for name, width in export.manifest.features.items():
        if name not in known:
            raise InputError(
                f"the dataset {dataset.address} has no feature set {name!r}, which the model "
                f"needs{did_you_mean(name, known)}"
            )
        if dataset.width(name) != width:
            raise InputError(
                f"feature set {name!r} of the dataset {dataset.address} has "
                f"{dataset.width(name)} features, the model was trained on {width}: extract it "
                "in the same way"
            )
