"""The best trials of a sweep fused: again at any time, and written as one folder to carry away.

python sweeps/fuse.py RUN [--data DATASET] [--export DIR] [fusion.method=top_k ...]

Everything is chosen on ``select``; ``confirm`` is read when the scores are written. Of a sweep that
still runs, and writes its best so far itself, the fused model is shown, and exported as it stands.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtl.dataset import Dataset
from mtl.errors import InputError
from sweeps.cli.run_program import run_program
from sweeps.data.open_data import open_data
from sweeps.fusion.report import summary
from sweeps.fusion.sweep import SweepFusion
from sweeps.planning.plan import divide
from sweeps.prediction.export import check_destination, export
from sweeps.search_file import load
from sweeps.storage.driver_lock import DriverLock
from sweeps.storage.run_folder import dataset_of


def main(argv: Sequence[str] | None = None) -> int:
    """The program."""
    words = _arguments(argv)
    folder: Path = words.run
    _check_words(words)
    file = load(folder / "space.yaml", words.overrides)
    dataset = open_data(words.data or file.data)
    _check_data(folder, dataset)
    listing = dataset.listing()
    parts = divide(listing, file.search.confirm, file.search.seed)
    fusion = SweepFusion(folder, dataset, listing, parts, file.fusion, file.search.metric)
    content = _fuse(fusion, words)
    if content is None:
        raise InputError(f"{folder}: no trial has ended with predictions: there is none to fuse")
    print(summary(content))
    if words.export:
        export(folder, dataset, words.export)
        print(f"export:      {words.export}")
    return 0


def _fuse(fusion: SweepFusion, words: argparse.Namespace) -> dict[str, Any] | None:
    try:
        lock = DriverLock(fusion.folder)
    except InputError as error:
        if words.export and words.overrides:
            raise InputError(
                f"{error} Or export what it has fused: without {' '.join(words.overrides)}"
            ) from None
        print(f"nothing is written: {error}\n")
        return fusion.look()
    try:
        content = fusion.finish()
    finally:
        lock.close()
    print(f"report:      {fusion.folder / 'report' / 'fusion.html'}\n")
    return content


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a sweep's folder, runs/<name>")
    parser.add_argument("--data", metavar="DATASET", help="where its dataset is now, if it moved")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the fused model there")
    parser.add_argument("overrides", nargs="*", metavar="fusion.key=value")
    return parser.parse_intermixed_args(argv)


def _check_words(words: argparse.Namespace) -> None:
    if not (words.run / "space.yaml").is_file():
        raise InputError(f"{words.run} is no sweep's folder: it has no space.yaml")
    if words.export:
        check_destination(words.export)
    for override in words.overrides:
        if not override.startswith("fusion."):
            raise InputError(
                f"{override!r} would change what was searched: only fusion.* can be given anew"
            )


def _check_data(folder: Path, dataset: Dataset) -> None:
    known = dataset_of(folder)
    if dataset.hash != known:
        raise InputError(
            f"{folder} was trained on other data (content {known[:12]}, {dataset.address} has "
            f"{dataset.hash[:12]}): give its own by --data"
        )


if __name__ == "__main__":
    run_program(main)
