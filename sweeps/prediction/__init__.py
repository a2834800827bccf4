"""Prediction with a fused model: export to a folder, workers and files of predictions."""
