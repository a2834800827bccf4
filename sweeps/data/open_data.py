"""The dataset that a program is given: its directory or address, or ``demo``."""

import shutil
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
        draft = DEMO.with_name(f"{DEMO.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        make_demo(draft)
        draft.rename(DEMO)  # whole, or not there
    return open_dataset(DEMO)
