"""Pretraining of a backbone on Ray: workers, image reading, driver and output folder."""
