"""Configs composed of groups and overrides, the space of a search file, the plan of a sweep."""
