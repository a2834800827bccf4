"""Optimisation: base trainer, learning-rate schedule, checkpoints, devices and DDP workers."""
