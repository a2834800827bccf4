"""The fused model, apart from the sweep that found it.

    model = Ensemble.load("export")
    predictions = model.predict(open_dataset("datasets/new"))
    predictions.save("predictions.parquet")

An export is a folder: ``model.json`` says what the ensemble is, ``statistics.safetensors`` holds
mean and std of each feature set over the training frames, and
``members/<name>/epoch_NNN.safetensors`` weights, those that are needed.
"""

from mtl.ensemble.folder import Export, parse_export, read_files
from mtl.ensemble.model import Ensemble
from mtl.ensemble.source import Source

__all__ = ["Ensemble", "Export", "Source", "parse_export", "read_files"]
