"""Predictions of a model: files, activation of raw outputs, post-processing, submission file."""
