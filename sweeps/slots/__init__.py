"""Slots: Ray actors that train one trial after another, alone or with DDP workers."""
