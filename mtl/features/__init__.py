"""Extraction of features from face crops: image folders, backbones, weights and output files."""
