"""Train a backbone on face crops, without labels (mae) or with (supervised), on Ray.

python sweeps/pretrain.py --method mae --images DIR --out DIR [path=value ...]
python sweeps/pretrain.py --method supervised --images DIR --out DIR
                          (--labels CSV | --annotations DIR [--subjects CSV]
                          [--confirm 0.5] [--seed 1234])
                          [--workers N] [--cpus 1] [--gpus 0] [path=value ...]

Trailing words are overrides of sweeps/configs/pretrain_<method>.yaml, such as backbone=iresnet50
training.epochs=40. The same command goes on after an interruption. OUT/weights.safetensors is what
extract.py reads.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np

from mtl.dataset.annotations import read_annotations
from mtl.dataset.storage import local_path
from mtl.errors import InputError, TrainingError
from mtl.features.backbones import RANDOM
from mtl.features.face_crops import Images, find_images, images_address
from mtl.pretraining.config import MAEConfig, SupervisedConfig
from mtl.pretraining.image_labels import LabelledImages, from_annotations, read_labels
from mtl.pretraining.pretrainer import PretrainResult
from mtl.strict import validate_as
from mtl.tasks import TASKS
from sweeps.cli.arguments import add_division_arguments, add_overrides_argument, make_parser
from sweeps.cli.pool_arguments import add_pool_arguments, check_pool, pool_workers
from sweeps.cli.run_program import run_program
from sweeps.cluster.capacity import worker_capacity
from sweeps.cluster.connection import Cluster, choose_address, connect
from sweeps.data.subjects import with_subjects
from sweeps.planning.compose import compose_plain
from sweeps.planning.plan import divide
from sweeps.pretraining.checks import check_apart, check_enough, check_there, check_workers
from sweeps.pretraining.events import Began, Broken, Died, Event, PretrainingEpoch, Waiting
from sweeps.pretraining.folder import FAILED, PretrainingFolder, as_yaml
from sweeps.pretraining.setup import PretrainingSetup, Start, manifest_of, start_of
from sweeps.storage.environment import environment

METHODS: dict[str, type[Any]] = {"mae": MAEConfig, "supervised": SupervisedConfig}


def main(argv: Sequence[str] | None = None) -> int:
    """The program."""
    words = _arguments(argv)
    try:
        return _pretrain(words)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on after the last epoch", file=sys.stderr)
        return 130
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--method", required=True, choices=METHODS, help="without labels, or with")
    parser.add_argument("--images", required=True, metavar="DIR", help="face crops, local or s3://")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--labels", metavar="CSV", help="image, any labels, and a split if any")
    parser.add_argument(
        "--annotations", metavar="DIR", help="the challenge's files, for images of its frames"
    )
    parser.add_argument(
        "--subjects", metavar="CSV", help="as prepare.py's: else each video has its own"
    )
    add_division_arguments(parser)
    parser.add_argument(
        "--restarts", type=int, default=3, help="of workers that died, before it gives up (3)"
    )
    add_pool_arguments(parser, workers="1")
    parser.add_argument("--overwrite", action="store_true", help="begin OUT anew")
    add_overrides_argument(
        parser,
        "override of sweeps/configs/pretrain_<method>.yaml, such as training.epochs=40",
    )
    return parser.parse_intermixed_args(argv)


def _pretrain(words: argparse.Namespace) -> int:
    """Check everything, then start Ray."""
    _check_words(words)
    plain = compose_plain(f"pretrain_{words.method}", words.overrides)
    config: MAEConfig | SupervisedConfig = validate_as(METHODS[words.method], plain)
    if config.training.device == "cuda" and not words.gpus:
        raise InputError("training.device = 'cuda' needs --gpus 1: without it no worker has a GPU")
    out, address = local_path(words.out), images_address(words.images)
    check_apart(out, address)
    images, labels = _images(words, config, address)
    setup = PretrainingSetup(config, images, labels, readers=1, reader_cpus=0, threads=words.cpus)
    start = start_of(setup)
    check_enough(setup)
    if words.workers != "auto":
        check_workers(int(words.workers), setup, start)
    folder = PretrainingFolder(out, manifest_of(words.method, setup, start))
    checkpoint = folder.check(words.overwrite)
    print(f"{_described(setup)}, {start.backbone} ({start.size} px, {start.width} features)")
    if len(folder.results) < config.training.epochs:
        with closing(folder.lock()):
            _run(words, plain, setup, start, folder, checkpoint)
    _conclude(words, folder, start)
    return 0


def _check_words(words: argparse.Namespace) -> None:
    check_pool(words)
    if words.gpus and words.gpus < 1 and words.workers != "1":
        raise InputError(
            f"--gpus {words.gpus:g} with --workers {words.workers}: NCCL lets no two workers share "
            "a GPU; give each a whole one"
        )
    if not 0 <= words.confirm < 1:
        raise InputError(f"--confirm {words.confirm:g} must be at least 0 and below 1")
    if min(words.seed, words.restarts) < 0:
        raise InputError(f"--seed {words.seed} and --restarts {words.restarts} must be at least 0")
    given = [name for name in ("labels", "annotations") if getattr(words, name) is not None]
    if words.method == "mae" and given:
        raise InputError(f"--{given[0]} is for --method supervised: mae takes no labels")
    if words.subjects is not None and words.annotations is None:
        raise InputError("--subjects goes with --annotations: it divides the videos of its lists")
    if words.method == "supervised" and len(given) != 1:
        raise InputError("--method supervised needs either --labels CSV or --annotations DIR")


def _images(
    words: argparse.Namespace, config: MAEConfig | SupervisedConfig, address: str
) -> tuple[Images, LabelledImages | None]:
    """All of them; with labels those of the config's tasks, so that an image has one of these."""
    found = find_images(address)
    if found.left_out:
        print(found.left_out)
    if not isinstance(config, SupervisedConfig):
        return found, None
    if words.labels is not None:
        labels = read_labels(words.labels, address)
        check_there(words.labels, labels.images, found)
    else:
        challenge = read_annotations(words.annotations)
        listing = with_subjects(challenge.listing, words.subjects)
        parts = divide(listing, words.confirm, words.seed)
        labels = from_annotations(found, challenge, parts)
    wanted = np.zeros(labels.mask.shape[1], bool)
    for task in config.tasks:
        wanted[TASKS[task].labels] = True
    labels = replace(labels, mask=labels.mask & wanted)
    return labels.images, labels


def _described(setup: PretrainingSetup) -> str:
    if setup.labels is None:
        return f"{len(setup.images):,} images"
    chosen = len(setup.labels.select_rows)
    by = f"the epoch chosen by {chosen:,} others" if chosen else "the last epoch is kept"
    return f"{len(setup.labels.train_rows):,} labelled images, {by}"


def _command(words: argparse.Namespace) -> str:
    options = ("method", "images", "out", "labels", "annotations", "subjects", "confirm", "seed")
    given = {name: getattr(words, name) for name in (*options, "workers", "cpus", "gpus")}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return shlex.join(["python", "sweeps/pretrain.py", *flags, *words.overrides])


def _run(
    words: argparse.Namespace,
    plain: dict[str, Any],
    setup: PretrainingSetup,
    start: Start,
    folder: PretrainingFolder,
    checkpoint: bytes | None,
) -> None:
    """Train what is left to train."""
    with connect(choose_address(words.address)) as cluster:
        # Ray must be imported after its settings are made.
        from sweeps.pretraining.driver import events

        workers = pool_workers(words, cluster)
        check_workers(workers, setup, start)
        folder.begin(as_yaml(_command(words), plain), environment(), words.overwrite)
        setup = replace(
            setup,
            # What the driver has read, wherever the workers are.
            config=setup.config.model_copy(update={"weights": RANDOM}),
            weights=start.weights if checkpoint is None else None,
            **_readers(words, workers, cluster),
        )
        device = "GPUs" if words.gpus and setup.config.training.device != "cpu" else "CPUs"
        print(f"{workers} workers on {device}; Ray's dashboard: {cluster.dashboard}")
        name = f"pretrain-{folder.path.name}"
        share = (workers, words.cpus, words.gpus)
        for event in events(name, setup, checkpoint, *share, words.restarts):
            if isinstance(event, PretrainingEpoch):
                folder.write_epoch(event)
                print(_line(event.result, setup.config.training.epochs))
            elif isinstance(event, Broken):
                folder.write_broken(event.images)
            else:
                _say(event, words, workers)


def _say(event: Event, words: argparse.Namespace, workers: int) -> None:
    """What is heard beside results."""
    if isinstance(event, Waiting):
        asked = f"{workers} x (--cpus {words.cpus} --gpus {words.gpus:g})"
        print(f"the workers have not begun yet: {asked} may be waiting for a place")
    elif isinstance(event, Died):
        print(f"a worker died: {event.cause}")
    elif isinstance(event, Began):
        print(f"going on after epoch {event.epoch}" if event.epoch else "the training begins")


def _readers(words: argparse.Namespace, workers: int, cluster: Cluster) -> dict[str, Any]:
    """The CPUs that training leaves free read images; where it leaves none they share them."""
    free = worker_capacity(1, 0, cluster.nodes, cluster.autoscaler) - workers * words.cpus
    return {"readers": max(1, free // workers), "reader_cpus": 1 if free >= workers else 0}


def _line(result: PretrainResult, epochs: int) -> str:
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in result.losses.items())
    scores = "" if result.score is None else f", select P {result.score:.4f}"
    left = timedelta(seconds=round((epochs - result.epoch) * result.seconds))
    return (
        f"epoch {result.epoch}/{epochs}: loss {losses}{scores}, "
        f"{result.images / result.seconds:,.0f} images/s, "
        f"{result.data_seconds / result.seconds:.0%} waiting, {left} left"
    )


def _conclude(words: argparse.Namespace, folder: PretrainingFolder, start: Start) -> None:
    if folder.broken:
        print(f"{folder.broken:,} images could not be read, see {folder.path / FAILED}")
    kept = json.loads((folder.path / "scores.json").read_text())
    print(f"weights: {folder.weights} (epoch {kept['epoch']})")
    flags = ["--images", words.images, "--backbone", start.backbone, "--size", str(start.size)]
    command = ["python", "sweeps/extract.py", *flags, "--weights", str(folder.weights)]
    print(f"next: {shlex.join(command)} --out FEATURES")


if __name__ == "__main__":
    run_program(main)
