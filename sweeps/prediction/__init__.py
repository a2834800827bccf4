"""Prediction with a fused model: export to a folder, Ray actors and files of predictions."""
