"""Pretraining on Ray: workers, image reading, driver and output folder."""
