"""Programs that train, fuse and predict on a Ray cluster, with Optuna and Hydra."""
