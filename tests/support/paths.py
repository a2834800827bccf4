"""Paths of the project."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds `mtl/`, `sweeps/` and `tests/`."""
