"""Pretrain a backbone on face crops with Ray, without labels (mae) or with labels (supervised).

python sweeps/pretrain.py --method mae --images DIR --out DIR [path=value ...]
python sweeps/pretrain.py --method supervised --images DIR --out DIR
                          (--labels CSV | --annotations DIR [--subjects CSV]
                          [--confirm 0.5] [--seed 1234])
                          [--workers N] [--cpus 1] [--gpus 0] [path=value ...]

Trailing arguments are overrides of sweeps/configs/pretrain_<method>.yaml, such as
backbone=iresnet50 training.epochs=40. The same command continues after an interruption. extract.py
reads OUT/weights.safetensors.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np

from mtl.dataset.annotations import read_annotations
from mtl.dataset.storage import local_path
from mtl.errors import InputError
from mtl.features.backbones import RANDOM
from mtl.features.face_crops import Images, find_images, images_address
from mtl.pretraining.config import MAEConfig, SupervisedConfig
from mtl.pretraining.image_labels import LabelledImages, from_annotations, read_labels
from mtl.pretraining.pretrainer import PretrainResult
from mtl.strict import validate_as
from mtl.tasks import TASKS
from sweeps.cli.arguments import add_division_arguments, add_overrides_argument, make_parser
from sweeps.cli.pool_arguments import add_pool_arguments, pool_workers
from sweeps.cli.run_program import run_program, run_training
from sweeps.cluster.capacity import worker_capacity
from sweeps.cluster.connection import Cluster, choose_address, connect
from sweeps.data.subjects import with_subjects
from sweeps.planning.compose import compose_plain
from sweeps.planning.plan import divide
from sweeps.pretraining.checks import (
    check_arguments,
    check_listed_images,
    check_output_folder,
    check_training_data,
    check_workers,
)
from sweeps.pretraining.events import (
    BrokenImages,
    Event,
    PretrainingEpoch,
    TrainingStarted,
    WorkerDied,
    WorkersWaiting,
)
from sweeps.pretraining.folder import FAILED_IMAGES, PretrainingFolder, as_yaml
from sweeps.pretraining.setup import (
    InitialBackbone,
    PretrainingSetup,
    initial_backbone,
    make_manifest,
)
from sweeps.storage.environment import environment

METHODS: dict[str, type[Any]] = {"mae": MAEConfig, "supervised": SupervisedConfig}
"""Config class of each method."""


def main(argv: Sequence[str] | None = None) -> int:
    """Pretrain a backbone on face crops: the program ``pretrain.py``.

    Args:
        argv: Arguments of the command line; None for those of the process.

    Returns:
        Exit code: 0, or 1 if the training fails, or 130 after Ctrl-C.

    Raises:
        InputError: If an argument, the config or the images are wrong.
    """
    arguments = _parse(argv)
    return run_training(lambda: _pretrain(arguments))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--method",
        required=True,
        choices=METHODS,
        help="mae without labels, supervised with labels",
    )
    parser.add_argument("--images", required=True, metavar="DIR", help="face crops, local or s3://")
    parser.add_argument("--out", required=True, metavar="DIR", help="output folder")
    parser.add_argument(
        "--labels",
        metavar="CSV",
        help="CSV file with the columns image, any labels and optionally split",
    )
    parser.add_argument(
        "--annotations",
        metavar="DIR",
        help="annotation files of the challenge, for images of its frames",
    )
    parser.add_argument(
        "--subjects",
        metavar="CSV",
        help="CSV file of subjects, as for prepare.py (default: one per video)",
    )
    add_division_arguments(parser)
    parser.add_argument(
        "--restarts", type=int, default=3, help="restarts after the death of a worker (default: 3)"
    )
    add_pool_arguments(parser, workers="1")
    parser.add_argument(
        "--overwrite", action="store_true", help="train from the start and overwrite OUT"
    )
    add_overrides_argument(
        parser,
        "override of sweeps/configs/pretrain_<method>.yaml, such as training.epochs=40",
    )
    return parser.parse_intermixed_args(argv)


def _pretrain(arguments: argparse.Namespace) -> int:
    """Check the arguments, images and labels, then start Ray, train, and return the exit code 0."""
    check_arguments(arguments)
    plain = compose_plain(f"pretrain_{arguments.method}", arguments.overrides)
    config: MAEConfig | SupervisedConfig = validate_as(METHODS[arguments.method], plain)
    if config.training.device == "cuda" and not arguments.gpus:
        raise InputError("training.device = 'cuda' needs --gpus 1: without it no worker has a GPU")
    out, address = local_path(arguments.out), images_address(arguments.images)
    check_output_folder(out, address)
    images, labels = _find_images(arguments, config, address)
    setup = PretrainingSetup(
        config, images, labels, readers=1, reader_cpus=0, threads=arguments.cpus
    )
    start = initial_backbone(setup)
    check_training_data(setup)
    if arguments.workers != "auto":
        check_workers(int(arguments.workers), setup, start)
    folder = PretrainingFolder(out, make_manifest(arguments.method, setup, start))
    checkpoint = folder.check(arguments.overwrite)
    print(f"{_describe_images(setup)}, {start.name} ({start.size} px, {start.width} features)")
    if len(folder.results) < config.training.epochs:
        with closing(folder.lock()):
            _run(arguments, plain, setup, start, folder, checkpoint)
    _print_summary(arguments, folder, start)
    return 0


def _find_images(
    arguments: argparse.Namespace, config: MAEConfig | SupervisedConfig, address: str
) -> tuple[Images, LabelledImages | None]:
    """Return the images to train on and their labels; the labels are None if there are none.

    Labels of tasks that the config does not train are masked out.
    """
    found = find_images(address)
    if found.left_out:
        print(found.left_out)
    if not isinstance(config, SupervisedConfig):
        return found, None
    if arguments.labels is not None:
        labels = read_labels(arguments.labels, address)
        check_listed_images(arguments.labels, labels.images, found)
    else:
        challenge = read_annotations(arguments.annotations)
        listing = with_subjects(challenge.listing, arguments.subjects)
        parts = divide(listing, arguments.confirm, arguments.seed)
        labels = from_annotations(found, challenge, parts)
    trained = np.zeros(labels.mask.shape[1], bool)
    for task in config.tasks:
        trained[TASKS[task].labels] = True
    labels = replace(labels, mask=labels.mask & trained)
    return labels.images, labels


def _describe_images(setup: PretrainingSetup) -> str:
    if setup.labels is None:
        return f"{len(setup.images):,} images"
    select = len(setup.labels.select_rows)
    kept = f"the epoch chosen by {select:,} others" if select else "the last epoch is kept"
    return f"{len(setup.labels.train_rows):,} labelled images, {kept}"


def _command(arguments: argparse.Namespace) -> str:
    options = ("method", "images", "out", "labels", "annotations", "subjects", "confirm", "seed")
    given = {name: getattr(arguments, name) for name in (*options, "workers", "cpus", "gpus")}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return shlex.join(["python", "sweeps/pretrain.py", *flags, *arguments.overrides])


def _run(
    arguments: argparse.Namespace,
    plain: dict[str, Any],
    setup: PretrainingSetup,
    start: InitialBackbone,
    folder: PretrainingFolder,
    checkpoint: bytes | None,
) -> None:
    """Start Ray, train the epochs that are left, and write their results to the output folder."""
    with connect(choose_address(arguments.address)) as cluster:
        # Ray must be imported after connect() has set its environment variables.
        from sweeps.pretraining.driver import pretraining_events

        workers = pool_workers(arguments, cluster)
        check_workers(workers, setup, start)
        folder.begin(as_yaml(_command(arguments), plain), environment(), arguments.overwrite)
        setup = replace(
            setup,
            # Workers on other nodes cannot read the file of weights, so they get its content.
            config=setup.config.model_copy(update={"weights": RANDOM}),
            weights=start.weights if checkpoint is None else None,
            **reader_resources(arguments, workers, cluster),
        )
        device = "GPUs" if arguments.gpus and setup.config.training.device != "cpu" else "CPUs"
        print(f"{workers} workers on {device}; Ray's dashboard: {cluster.dashboard}")
        name = f"pretrain-{folder.path.name}"
        resources = (workers, arguments.cpus, arguments.gpus)
        for event in pretraining_events(name, setup, checkpoint, *resources, arguments.restarts):
            if isinstance(event, PretrainingEpoch):
                folder.write_epoch(event)
                print(_progress_line(event.result, setup.config.training.epochs))
            elif isinstance(event, BrokenImages):
                folder.write_broken(event.images)
            else:
                _print_event(event, arguments, workers)


def _print_event(event: Event, arguments: argparse.Namespace, workers: int) -> None:
    if isinstance(event, WorkersWaiting):
        requested = f"{workers} x (--cpus {arguments.cpus} --gpus {arguments.gpus:g})"
        print(f"the workers have not begun yet: {requested} may be waiting for a place")
    elif isinstance(event, WorkerDied):
        print(f"a worker died: {event.cause}")
    elif isinstance(event, TrainingStarted):
        print(f"going on after epoch {event.epoch}" if event.epoch else "the training begins")


def reader_resources(
    arguments: argparse.Namespace, workers: int, cluster: Cluster
) -> dict[str, Any]:
    """Return the number and CPUs of the tasks that read images for each worker.

    The tasks use the CPUs that the workers leave free. If fewer CPUs than workers are free, each
    worker has one task, which reserves no CPU.

    Args:
        arguments: Arguments of the command line, which hold the CPUs of each worker.
        workers: Number of workers.
        cluster: The connected Ray cluster.

    Returns:
        ``readers`` (number of tasks for each worker) and ``reader_cpus`` (CPUs of each task), which
        are fields of ``PretrainingSetup``.
    """
    free = worker_capacity(1, 0, cluster.nodes, cluster.autoscaler) - workers * arguments.cpus
    return {"readers": max(1, free // workers), "reader_cpus": 1 if free >= workers else 0}


def _progress_line(result: PretrainResult, epochs: int) -> str:
    losses = ", ".join(f"{name} {loss:.4f}" for name, loss in result.losses.items())
    scores = "" if result.score is None else f", select P {result.score:.4f}"
    left = timedelta(seconds=round((epochs - result.epoch) * result.seconds))
    return (
        f"epoch {result.epoch}/{epochs}: loss {losses}{scores}, "
        f"{result.images / result.seconds:,.0f} images/s, "
        f"{result.data_seconds / result.seconds:.0%} waiting, {left} left"
    )


def _print_summary(
    arguments: argparse.Namespace, folder: PretrainingFolder, start: InitialBackbone
) -> None:
    if folder.broken:
        print(f"{folder.broken:,} images could not be read, see {folder.path / FAILED_IMAGES}")
    kept = json.loads((folder.path / "scores.json").read_text())
    print(f"weights: {folder.weights} (epoch {kept['epoch']})")
    flags = ["--images", arguments.images, "--backbone", start.name, "--size", str(start.size)]
    command = ["python", "sweeps/extract.py", *flags, "--weights", str(folder.weights)]
    print(f"next: {shlex.join(command)} --out FEATURES")


if __name__ == "__main__":
    run_program(main)
