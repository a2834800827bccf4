"""The science of multi-task emotion recognition: no Ray, Optuna, Hydra or command line in here."""
