"""Slots: seats that train one trial after another, in one process or by a group of DDP workers."""
