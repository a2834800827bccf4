"""Configs of trials, the search space of a search file, and its check against a dataset."""
