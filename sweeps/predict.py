"""The fused model on a dataset's videos, by a pool of workers on Ray.

python sweeps/predict.py --model RUN|EXPORT --data DATASET --out FILE [--split SPLIT]
                         [--workers N|auto] [--cpus 1] [--gpus 0] [--address ADDRESS] [--overwrite]

RUN is a sweep's folder, EXPORT what it was exported to. FILE ends in .parquet (values and
probabilities of every listed frame) or .txt (the challenge's format).
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
from sweeps.cli.frame_progress import FrameProgress
from sweeps.cli.pool_arguments import add_pool_arguments, check_pool, pool_workers
from sweeps.cli.run_program import run_program
from sweeps.cluster.connection import Cluster, choose_address, connect
from sweeps.data.open_data import open_data
from sweeps.prediction.export import MEMBERS, collect, sweep_data
from sweeps.prediction.files import check_prediction_file, writing

SPANS_PER_WORKER = 4
"""At least, where there are so many videos: the last ones to work are not alone for long."""


def main(argv: Sequence[str] | None = None) -> int:
    """The program."""
    words = _arguments(argv)
    try:
        _predict(words)
    except KeyboardInterrupt:
        print(f"\ninterrupted: {words.out} is not written", file=sys.stderr)
        return 130
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, type=Path, metavar="DIR", help="a sweep's folder, or an export"
    )
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="a dataset directory or address, or demo"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="what to write, .parquet or .txt"
    )
    parser.add_argument("--split", choices=SPLITS, help="only its videos (all)")
    add_pool_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    return parser.parse_args(argv)


def _predict(words: argparse.Namespace) -> None:
    """Check everything, then start Ray."""
    check_pool(words)
    check_prediction_file(words.out, words.overwrite)
    files = _model_files(words.model)
    export = parse_export(files, words.model)
    source = Source.open(export, open_data(words.data), words.split)
    for sentence in source.describe_missing_features(export):
        print(sentence)
    _say_what(export, source)
    # Else Ray says, of each pool of actors whatsoever, that what it was built from may be lost.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with connect(choose_address(words.address)) as cluster:
        _stream(words, files, source, cluster)


def _model_files(model: Path) -> Files:
    if (model / MODEL).is_file():
        return read_files(model)
    if (model / MEMBERS).is_file():
        return collect(model, sweep_data(model))
    raise InputError(
        f"--model {model} is neither an exported model (it has no {MODEL}) nor the folder of a "
        f"sweep that has come to its end (no {MEMBERS})"
    )


def _say_what(export: Export, source: Source) -> None:
    videos = len(set(source.video.tolist()))
    print(
        f"{len(export.members)} members, {len(source.frame):,} frames of {videos:,} videos of "
        f"{source.dataset.address}"
    )


def _stream(words: argparse.Namespace, files: Files, source: Source, cluster: Cluster) -> None:
    """Predict span after span and write each as it comes."""
    # Ray must be imported after its settings are made.
    from sweeps.prediction.workers import predict_spans

    workers = pool_workers(words, cluster)
    spans = source.spans(min_spans=workers * SPANS_PER_WORKER)
    workers = min(workers, len(spans))
    print(f"{workers} workers, {len(spans)} spans of videos; Ray's dashboard: {cluster.dashboard}")
    progress = FrameProgress(len(source.frame))
    with writing(words.out, source) as write:
        for span, outputs in predict_spans(
            files, str(words.model), source, spans, workers, words.cpus, words.gpus
        ):
            write(span, outputs)
            progress.at(span.stop)
    print(f"predictions: {words.out}")


if __name__ == "__main__":
    run_program(main)
