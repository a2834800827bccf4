"""Sequences of frames: joined feature sets, folds of videos, and windows."""
