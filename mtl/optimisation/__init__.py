"""Optimisation: trainer core, learning-rate schedule, checkpoints, devices and DDP workers."""
