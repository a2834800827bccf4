"""Fuse the best trials of a sweep again, and export the fused model as one folder.

python sweeps/fuse.py RUN [--data DATASET] [--export DIR] [fusion.method=top_k ...]

The trials to fuse and the post-processing are chosen on one set of validation videos (select); the
other validation videos (confirm) are used for the final scores only. While the sweep is still
running, the scores of its current fused model are printed, and --export writes this model, but
nothing is written to the run folder.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtl.dataset import Dataset
from mtl.errors import InputError
from sweeps.cli.arguments import add_overrides_argument, make_parser
from sweeps.cli.run_program import run_program
from sweeps.data.open_data import open_data
from sweeps.fusion.report import summary
from sweeps.fusion.sweep import SweepFusion
from sweeps.planning.plan import divide
from sweeps.prediction.export import check_destination, export
from sweeps.search_file import load
from sweeps.storage.driver_lock import DriverLock
from sweeps.storage.recorded_start import read_start
from sweeps.storage.run_folder import REPORT, SPACE


def main(argv: Sequence[str] | None = None) -> int:
    """Fuse the best trials of a sweep and print the scores: the program ``fuse.py``.

    With ``--export`` the fused model is also written to a new folder.

    Args:
        argv: Arguments of the command line; None for those of the process.

    Returns:
        Exit code 0.

    Raises:
        InputError: If an argument is wrong or no trial can be fused.
    """
    arguments = _parse(argv)
    folder: Path = arguments.run
    _check_arguments(arguments)
    file = load(folder / SPACE, arguments.overrides)
    dataset = open_data(arguments.data or file.data)
    _check_data(folder, dataset)
    listing = dataset.listing()
    parts = divide(listing, file.search.confirm, file.search.seed)
    fusion = SweepFusion(folder, dataset, listing, parts, file.fusion, file.search.metric)
    content = _fuse(fusion, arguments)
    if content is None:
        raise InputError(f"{folder}: no trial has ended with predictions: there is none to fuse")
    print(summary(content))
    if arguments.export:
        export(folder, dataset, arguments.export)
        print(f"export:      {arguments.export}")
    return 0


def _fuse(fusion: SweepFusion, arguments: argparse.Namespace) -> dict[str, Any] | None:
    try:
        lock = DriverLock(fusion.folder)
    except InputError as error:
        if arguments.export and arguments.overrides:
            raise InputError(
                f"{error} Or export what it has fused: without {' '.join(arguments.overrides)}"
            ) from None
        print(f"nothing is written: {error}\n")
        return fusion.preview()
    try:
        content = fusion.finish()
    finally:
        lock.close()
    print(f"report:      {fusion.folder / REPORT / 'fusion.html'}\n")
    return content


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of the sweep, runs/<name>")
    parser.add_argument(
        "--data",
        metavar="DATASET",
        help="directory or address of the sweep's dataset, if it has moved",
    )
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="write the fused model to this new folder"
    )
    add_overrides_argument(
        parser,
        "override of the fusion section of the sweep's search file, such as fusion.method=top_k",
        metavar="fusion.key=value",
    )
    return parser.parse_intermixed_args(argv)


def _check_arguments(arguments: argparse.Namespace) -> None:
    if not (arguments.run / SPACE).is_file():
        raise InputError(f"{arguments.run} is no sweep's folder: it has no {SPACE}")
    if arguments.export:
        check_destination(arguments.export)
    for override in arguments.overrides:
        if not override.startswith("fusion."):
            raise InputError(
                f"{override!r} changes the search itself: only fusion.* can be overridden here"
            )


def _check_data(folder: Path, dataset: Dataset) -> None:
    known = read_start(folder).dataset
    if dataset.hash != known:
        raise InputError(
            f"{folder} was trained on other data (content {known[:12]}, {dataset.address} has "
            f"{dataset.hash[:12]}): give its own by --data"
        )


if __name__ == "__main__":
    run_program(main)
