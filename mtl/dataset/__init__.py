"""The dataset directory: its contract, reading it and writing it.

``features/<set>`` holds sorted Parquet parts (``video, frame, feature``, one row per frame),
``labels.parquet`` the listed frames in the order of the challenge's files with null where a label
is missing, ``videos.parquet`` each video's split and subject, and ``dataset.json`` the sources,
counts, content hash and statistics of the training frames.
"""

from mtl.dataset.feature_set import VideoFeatures
from mtl.dataset.listing import SPLITS, Listing
from mtl.dataset.reading import Dataset, FeatureIndex, open_dataset
from mtl.dataset.sources import read_features
from mtl.dataset.writing import write_dataset

__all__ = [
    "SPLITS",
    "Dataset",
    "FeatureIndex",
    "Listing",
    "VideoFeatures",
    "open_dataset",
    "read_features",
    "write_dataset",
]
