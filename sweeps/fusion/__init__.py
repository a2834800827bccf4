"""Fusion of a sweep's trials: choice of trials, scores, reports and results of refits."""
