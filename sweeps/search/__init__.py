"""Tune's side of a sweep: the search loop, its budget and its live table."""
