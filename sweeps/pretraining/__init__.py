"""A pretraining on Ray: what its workers do, what they read, what its driver hears and writes."""
