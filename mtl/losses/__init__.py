"""Losses of the tasks, and balancing of these losses."""
