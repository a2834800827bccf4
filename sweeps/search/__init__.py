"""Search of a sweep with Ray Tune: the loop, its limits and its live table."""
