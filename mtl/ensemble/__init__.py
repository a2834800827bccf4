"""Ensembles of trained models: choice of the members, and the export that predicts any dataset.

    model = Ensemble.load("export")
    predictions = model.predict(open_dataset("datasets/new"))
    predictions.save("predictions.parquet")

An export is a folder. ``model.json`` describes the ensemble, ``statistics.safetensors`` holds mean
and standard deviation of each feature set over the training frames, and
``members/<name>/epoch_NNN.safetensors`` holds the weights of a member after an epoch.
"""

from mtl.ensemble.folder import Export, parse_export, read_files
from mtl.ensemble.model import Ensemble
from mtl.ensemble.source import Source

__all__ = ["Ensemble", "Export", "Source", "parse_export", "read_files"]
