"""The dataset that a program is given: its directory or address, or ``demo``."""

from pathlib import Path

from mtl.dataset import Dataset, open_dataset
from mtl.synthetic import make_demo

DEMO = Path("datasets/demo")


def open_data(address: str) -> Dataset:
    """Open a dataset directory; ``demo`` is planted on first use."""
    if address != "demo":
        return open_dataset(address)
    if not DEMO.exists():
        print(f"planting the demo dataset in {DEMO}")
        make_demo(DEMO)
    return open_dataset(DEMO)
