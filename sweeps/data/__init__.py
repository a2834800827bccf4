"""Datasets, and their feature sets in the object store of each node."""
