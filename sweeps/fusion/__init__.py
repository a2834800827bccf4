"""Fusion of a sweep's trials: choice of members, scores, reports and training on folds."""
