"""Opening of a dataset by its directory or address, or of the synthetic demo dataset."""

import shutil
from pathlib import Path

from mtl.dataset import Dataset, open_dataset
from mtl.synthetic import make_demo

DEMO = Path("datasets/demo")
"""Directory of the synthetic demo dataset."""


def open_data(address: str) -> Dataset:
    """Open a dataset.

    Args:
        address: Dataset directory, its ``s3://`` address, or ``demo`` for the synthetic demo
            dataset, which is written to ``datasets/demo`` when it is opened for the first time.

    Raises:
        InputError: If there is no dataset at the address.
    """
    if address != "demo":
        return open_dataset(address)
    if not DEMO.exists():
        print(f"planting the demo dataset in {DEMO}")
        draft = DEMO.with_name(f"{DEMO.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        make_demo(draft)
        draft.rename(DEMO)  # an interruption leaves no incomplete dataset
    return open_dataset(DEMO)
