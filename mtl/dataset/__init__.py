"""Dataset directory: file format, reader and writer.

A feature set has one feature vector for each video frame, computed by one extractor (such as a face
recognition network). The listed frames are the frames that the annotation files and the test list
of the ABAW multi-task challenge name. A dataset directory holds:

- ``features/<set>``: sorted Parquet part files (``video, frame, feature``), one row per frame;
- ``labels.parquet``: the listed frames in the order of the challenge's files, with null for a
  missing label;
- ``videos.parquet``: the split and subject of each video;
- ``dataset.json``: sources, counts, content hash, and mean and standard deviation of each feature
  over the training frames.
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
