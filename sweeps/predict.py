"""The fused model on a dataset's videos, by a pool of workers on Ray.

python sweeps/predict.py --model RUN|EXPORT --data DATASET --out FILE [--split SPLIT]
                         [--workers N|auto] [--cpus 1] [--gpus 0] [--address ADDRESS] [--overwrite]

RUN is a sweep's folder, EXPORT what it was exported to. FILE ends in .parquet (values and
probabilities of every listed frame) or .txt (the challenge's format).
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mtl.dataset import SPLITS
from mtl.ensemble import Export, Source, parse_export, read_files
from mtl.ensemble.folder import Files
from mtl.ensemble.manifest import MODEL
from mtl.errors import InputError
from sweeps.cli import run_program
from sweeps.cluster import Cluster, choose_address, connect, fitting, there_is
from sweeps.data import open_data
from sweeps.export import MEMBERS, collect, sweep_data
from sweeps.prediction_files import check_prediction_file, writing

SPANS_PER_WORKER = 4
"""At least, where there are so many videos: the last ones to work are not alone for long."""
LINE_SECONDS = 10


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
    parser.add_argument(
        "--workers", default="auto", metavar="N", help="processes (auto: as many as fit)"
    )
    parser.add_argument("--cpus", type=int, default=1, help="of each worker (1)")
    parser.add_argument("--gpus", type=float, default=0.0, help="of each worker (0)")
    parser.add_argument(
        "--address", help="a running Ray cluster; RAY_ADDRESS, else this machine by default"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    return parser.parse_args(argv)


def _predict(words: argparse.Namespace) -> None:
    """Check everything, then start Ray."""
    _check_words(words)
    check_prediction_file(words.out, words.overwrite)
    files = _model_files(words.model)
    export = parse_export(files, words.model)
    source = Source.open(export, open_data(words.data), words.split)
    for sentence in source.describe_lost(export):
        print(sentence)
    _say_what(export, source)
    # Else Ray says, of each pool of actors whatsoever, that what it was built from may be lost.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with connect(choose_address(words.address)) as cluster:
        _stream(words, files, source, cluster)


def _check_words(words: argparse.Namespace) -> None:
    if words.workers != "auto" and not (words.workers.isdecimal() and int(words.workers)):
        raise InputError(f"--workers {words.workers} must be auto or at least 1")
    if words.cpus < 1:
        raise InputError(f"--cpus {words.cpus} must be at least 1")
    if words.gpus < 0 or (words.gpus > 1 and words.gpus != int(words.gpus)):
        raise InputError(f"--gpus {words.gpus:g} must be a whole number, or a share below 1")


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
    from sweeps.prediction import predict_spans

    workers = _workers(words, cluster)
    spans = source.spans(at_least=workers * SPANS_PER_WORKER)
    workers = min(workers, len(spans))
    print(f"{workers} workers, {len(spans)} spans of videos; Ray's dashboard: {cluster.dashboard}")
    progress = _Progress(len(source.frame))
    with writing(words.out, source) as write:
        for span, outputs in predict_spans(
            files, str(words.model), source, spans, workers, words.cpus, words.gpus
        ):
            write(span, outputs)
            progress.at(span.stop)
    print(f"predictions: {words.out}")


def _workers(words: argparse.Namespace, cluster: Cluster) -> int:
    fits = fitting(words.cpus, words.gpus, cluster.nodes, cluster.can_come)
    asked = 1 if words.workers == "auto" else int(words.workers)
    if fits < asked:
        each = f"--cpus {words.cpus}" + (f" and --gpus {words.gpus:g}" if words.gpus else "")
        have = there_is(cluster.nodes, cluster.can_come)
        raise InputError(f"--workers {asked} x ({each}) is more than {have}: lower it")
    return fits if words.workers == "auto" else asked


class _Progress:
    """One line on a terminal, one now and then elsewhere."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.terminal = sys.stdout.isatty()
        self.begun = self.said = time.monotonic()

    def at(self, done: int) -> None:
        now = time.monotonic()
        last = done == self.frames
        if not (self.terminal or last or now - self.said >= LINE_SECONDS):
            return
        self.said = now
        print(
            f"{done:,} of {self.frames:,} frames ({done / self.frames:.0%}), "
            f"{done / (now - self.begun):,.0f} frames/s",
            end="\r" if self.terminal and not last else "\n",
            flush=True,
        )


if __name__ == "__main__":
    run_program(main)
