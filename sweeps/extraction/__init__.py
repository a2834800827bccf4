"""Feature extraction with a pool of Ray actors, and the folder that it writes."""
