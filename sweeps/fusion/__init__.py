"""Fusion of a sweep's trials: choice of the trials to fuse, scores, reports and plots."""
