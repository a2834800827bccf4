"""What becomes of a sweep's trials: fused, scored, written, and trained anew on folds."""
