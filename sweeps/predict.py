"""Predict a dataset's videos with a fused model, by a pool of workers on Ray.

python sweeps/predict.py --model RUN|EXPORT --data DATASET --out FILE [--split SPLIT]
                         [--workers N|auto] [--cpus 1] [--gpus 0] [--address ADDRESS] [--overwrite]

RUN is the folder of a sweep, EXPORT a folder that sweeps/fuse.py --export has written. A FILE that
ends in .parquet holds values and probabilities of every listed frame, one that ends in .txt is in
the challenge's format.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mtl.dataset import SPLITS
from mtl.ensemble import Export, Source, parse_export, read_files
from mtl.ensemble.folder import Files
from mtl.ensemble.manifest import MODEL
from mtl.errors import InputError
from sweeps.cli.arguments import add_data_argument, make_parser
from sweeps.cli.frame_progress import FrameProgress
from sweeps.cli.pool_arguments import add_pool_arguments, check_pool, pool_workers
from sweeps.cli.run_program import run_program
from sweeps.cluster.connection import Cluster, choose_address, connect
from sweeps.data.open_data import open_data
from sweeps.prediction.export import export_files, sweep_data
from sweeps.prediction.files import check_prediction_file, writing
from sweeps.storage.run_folder import MEMBERS

SPANS_PER_WORKER = 4
"""Minimum number of spans (ranges of frames of whole videos) for each worker.

With several small spans instead of one large span for each worker, all workers end at about the
same time. There are fewer spans if there are too few videos.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Predict a dataset with a fused model and write one file: the program ``predict.py``.

    Args:
        argv: Arguments of the command line; None for those of the process.

    Returns:
        Exit code: 0, or 130 after Ctrl-C.

    Raises:
        InputError: If an argument, the model or the dataset is wrong.
    """
    arguments = _parse(argv)
    try:
        _predict(arguments)
    except KeyboardInterrupt:
        print(f"\ninterrupted: {arguments.out} is not written", file=sys.stderr)
        return 130
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--model",
        required=True,
        type=Path,
        metavar="DIR",
        help="run folder of a finished sweep, or a folder that sweeps/fuse.py --export has written",
    )
    add_data_argument(parser)
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="file to write, .parquet (values and probabilities) or .txt (the challenge's format)",
    )
    parser.add_argument(
        "--split", choices=SPLITS, help="predict the videos of this split only (default: all)"
    )
    add_pool_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    return parser.parse_args(argv)


def _predict(arguments: argparse.Namespace) -> None:
    """Check the arguments and the model, then predict the videos on Ray and write the file."""
    check_pool(arguments)
    check_prediction_file(arguments.out, arguments.overwrite)
    files = _model_files(arguments.model)
    export = parse_export(files, arguments.model)
    source = Source.open(export, open_data(arguments.data), arguments.split)
    for sentence in source.describe_missing_features(export):
        print(sentence)
    _print_summary(export, source)
    # Otherwise Ray warns for every actor pool that its constructor arguments may be lost.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with connect(choose_address(arguments.address)) as cluster:
        _predict_spans(arguments, files, source, cluster)


def _model_files(model: Path) -> Files:
    if (model / MODEL).is_file():
        return read_files(model)
    if (model / MEMBERS).is_file():
        return export_files(model, sweep_data(model))
    raise InputError(
        f"--model {model} is neither an exported model (it has no {MODEL}) nor the folder of a "
        f"sweep that has ended (it has no {MEMBERS})"
    )


def _print_summary(export: Export, source: Source) -> None:
    videos = len(set(source.video.tolist()))
    print(
        f"{len(export.members)} members, {len(source.frame):,} frames of {videos:,} videos of "
        f"{source.dataset.address}"
    )


def _predict_spans(
    arguments: argparse.Namespace, files: Files, source: Source, cluster: Cluster
) -> None:
    """Predict all spans on Ray; write the predictions of each span as soon as they are ready.

    A span is a range of frames of whole videos.
    """
    # This module imports Ray, which reads environment variables that connect() sets.
    from sweeps.prediction.workers import predict_spans

    workers = pool_workers(arguments, cluster)
    spans = source.spans(min_spans=workers * SPANS_PER_WORKER)
    workers = min(workers, len(spans))
    print(f"{workers} workers, {len(spans)} spans of videos; Ray's dashboard: {cluster.dashboard}")
    progress = FrameProgress(len(source.frame))
    with writing(arguments.out, source) as write:
        for span, outputs in predict_spans(
            files, str(arguments.model), source, spans, workers, arguments.cpus, arguments.gpus
        ):
            write(span, outputs)
            progress.update(span.stop)
    print(f"predictions: {arguments.out}")


if __name__ == "__main__":
    run_program(main)
