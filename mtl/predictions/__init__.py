"""Predictions: files, activation of raw outputs, post-processing and submission files."""
