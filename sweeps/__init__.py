"""The cluster side: Ray, Optuna, Hydra and the command line."""
