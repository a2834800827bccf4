"""Connection to a Ray cluster, its capacity, and groups of DDP workers on it."""
