"""What an ensemble reads of a dataset: which frames, and the features of a span of them.

Shapes: N listed frames.
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
"""What is read at once, unless a video is larger."""


@dataclass(frozen=True, eq=False)
class Source:
    """The listed frames of a dataset and where their features are; cheap to pickle.

    Attributes:
        dataset: The opened dataset.
        indices: Of the feature sets that are needed.
        all_frames: Whether some member walks over unlisted frames.
        names: Video names; ``splits`` beside them.
        video: Of each listed frame, in the listing's order.
        frame: Its number.
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
        """Of all its listed frames, or of one split.

        Raises:
            InputError: If the dataset lacks a feature set of the ensemble or has it in another
                width, or has no such frames.
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
        """The frames, without a label."""
        return Listing.unlabelled(self.names, self.splits, self.names, self.video, self.frame)

    def spans(self, most_bytes: int = SPAN_BYTES, at_least: int = 1) -> list[slice]:
        """The rows of ``listing`` span after span, each of whole videos that are read at once.

        Args:
            most_bytes: Of features and outputs of a span, unless a video has more.
            at_least: So many spans, unless there are fewer videos.
        """
        sizes = self._video_bytes()
        return video_spans(self.video, sizes, min(most_bytes, int(sizes.sum()) // at_least))

    def _video_bytes(self) -> Int[np.ndarray, " V"]:
        place = {name: number for number, name in enumerate(self.names)}
        sizes = 4 * len(OUTPUT_COLUMNS) * np.bincount(self.video, minlength=len(place))
        for name, index in self.indices.items():
            rows = dict(zip(index.names, np.diff(index.starts).tolist(), strict=True))
            frames = np.array([rows.get(video, 0) for video in self.names])
            sizes += 4 * self.dataset.width(name) * frames
        return sizes

    def read(self, span: slice) -> tuple[Listing, dict[str, FeatureTable]]:
        """The frames of a span and the features of their videos.

        Raises:
            InputError: A row that breaks the contract (NaN ...), with its file and number.
        """
        listing = self.listing.take(span)
        listed = None if self.all_frames else listing
        videos = set(listing.names)
        return listing, {
            name: read_table(self.dataset, name, listed, videos, index)
            for name, index in self.indices.items()
        }

    def describe_missing_features(self, export: Export) -> list[str]:
        """What becomes of listed frames without features: a sentence for each combination of sets
        with any.

        Raises:
            InputError: If none has features.
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
    """Refuse a dataset without a feature set of the ensemble, or with another width of it.

    Raises:
        InputError: Which one.
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
