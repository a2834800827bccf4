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
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from mtl.affwild2 import read_annotations
from mtl.errors import InputError
from mtl.features.augmentation import epoch_batches
from mtl.features.config import MAEConfig, SupervisedConfig
from mtl.features.images import Images, find_images
from mtl.features.labels import LabelledImages, of_challenge, read_labels
from mtl.features.pretraining import PretrainResult
from mtl.strict import validate_as
from mtl.tasks import TASKS
from mtl.training import TrainingError
from mtl.weighting import BALANCINGS
from sweeps.cli import run_program
from sweeps.cluster import Cluster, choose_address, connect
from sweeps.compose import compose_plain
from sweeps.environment import environment
from sweeps.plan import divide
from sweeps.pretraining.folder import FAILED, PretrainingFolder, as_yaml
from sweeps.pretraining.setup import Setup, make_objective
from sweeps.subjects import with_subjects
from sweeps.worker_pool import add_pool_arguments, check_pool, pool_workers

METHODS: dict[str, type[Any]] = {"mae": MAEConfig, "supervised": SupervisedConfig}
OPERATIONAL = ("device", "checkpoint_epochs")
"""Keys of ``training`` that change where it runs and what is lost by a kill, not what comes out."""


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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", required=True, choices=METHODS, help="without labels, or with")
    parser.add_argument("--images", required=True, metavar="DIR", help="face crops, local or s3://")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to make")
    parser.add_argument("--labels", metavar="CSV", help="image, any labels, and a split if any")
    parser.add_argument(
        "--annotations", metavar="DIR", help="the challenge's files, for images of its frames"
    )
    parser.add_argument(
        "--subjects", metavar="CSV", help="as prepare.py's: else each video has its own"
    )
    parser.add_argument(
        "--confirm", type=float, default=0.5, help="the sweep's search.confirm (0.5)"
    )
    parser.add_argument("--seed", type=int, default=1234, help="the sweep's search.seed (1234)")
    parser.add_argument(
        "--restarts", type=int, default=3, help="of workers that died, before it gives up (3)"
    )
    add_pool_arguments(parser)
    parser.set_defaults(workers="1")
    parser.add_argument("--overwrite", action="store_true", help="begin OUT anew")
    parser.add_argument("overrides", nargs="*", metavar="path=value")
    return parser.parse_intermixed_args(argv)


def _pretrain(words: argparse.Namespace) -> int:
    """Check everything, then start Ray."""
    _check_words(words)
    plain = compose_plain(f"pretrain_{words.method}", words.overrides)
    config: MAEConfig | SupervisedConfig = validate_as(METHODS[words.method], plain)
    images, labels = _images(words)
    setup = Setup(config, images, labels, readers=1, reader_cpus=0, threads=words.cpus)
    backbone = make_objective(setup).backbone
    _check_enough(setup)
    if isinstance(config, SupervisedConfig) and words.workers != "1":
        name = config.balancing.name
        if BALANCINGS[name].alone:
            raise InputError(
                f"balancing = {name!r} needs each task's own gradient, which several workers do "
                f"not have: leave out --workers {words.workers}"
            )
    manifest = _manifest(words, setup)
    folder = PretrainingFolder(words.out, manifest)
    checkpoint = folder.check(words.overwrite)
    print(f"{_described(setup)}, {backbone.name} ({backbone.size} px, {backbone.width} features)")
    if len(folder.results) < config.training.epochs:
        folder.begin(as_yaml(_command(words), plain), environment(), words.overwrite)
        _run(words, setup, folder, checkpoint)
    _conclude(words, folder, backbone.name, backbone.size)
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


def _images(words: argparse.Namespace) -> tuple[Images, LabelledImages | None]:
    # The processes of a cluster that runs already work elsewhere.
    address = words.images if "://" in words.images else str(Path(words.images).absolute())
    if words.labels is not None:
        labels = read_labels(words.labels, address)
    elif words.annotations is not None:
        challenge = read_annotations(words.annotations)
        listing = with_subjects(challenge.listing, words.subjects)
        parts = divide(listing, words.confirm, words.seed)
        labels = of_challenge(find_images(address), challenge, parts)
    else:
        return find_images(address), None
    return labels.images, labels


def _check_enough(setup: Setup) -> None:
    """Refuse what would end the training for certain."""
    labels, config = setup.labels, setup.config
    number = len(setup.images if labels is None else labels.train)
    epoch_batches(number, config.training.batch_images, seed=0, epoch=1)
    if labels is not None and isinstance(config, SupervisedConfig):
        known = labels.mask[labels.train].any(axis=0)
        for task in config.tasks:
            if not known[TASKS[task].labels].any():
                raise InputError(f"tasks: no image to train on has a label of {task}: leave it out")


def _manifest(words: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    """What decides the outcome."""
    config = setup.config.model_dump(mode="json", serialize_as_any=True)
    for key in OPERATIONAL:
        del config["training"][key]
    digest = hashlib.sha256("\n".join(setup.images.files.to_pylist()).encode())
    if setup.labels is not None:
        for part in (setup.labels.values, setup.labels.mask, setup.labels.select):
            digest.update(part.tobytes())
    return {
        "method": words.method,
        "config": config,
        "images": setup.images.address,
        "number": len(setup.images),
        "sha256": digest.hexdigest(),
    }


def _described(setup: Setup) -> str:
    if setup.labels is None:
        return f"{len(setup.images):,} images"
    chosen = len(setup.labels.chosen_by)
    by = f"the epoch chosen by {chosen:,} others" if chosen else "the last epoch is kept"
    return f"{len(setup.labels.train):,} labelled images, {by}"


def _command(words: argparse.Namespace) -> str:
    options = ("method", "images", "out", "labels", "annotations", "subjects", "confirm", "seed")
    given = {name: getattr(words, name) for name in (*options, "workers", "cpus", "gpus")}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return shlex.join(["python", "sweeps/pretrain.py", *flags, *words.overrides])


def _run(
    words: argparse.Namespace, setup: Setup, folder: PretrainingFolder, checkpoint: bytes | None
) -> None:
    """Train what is left to train."""
    with connect(choose_address(words.address)) as cluster:
        # Ray must be imported after its settings are made.
        from sweeps.pretraining.driver import events
        from sweeps.pretraining.record import Began, Broken, Epoch

        workers = pool_workers(words, cluster)
        setup = replace(setup, **_readers(words, workers, cluster))
        print(f"{workers} workers; Ray's dashboard: {cluster.dashboard}")
        for event in events(
            f"pretrain-{words.out.name}",
            setup,
            checkpoint,
            workers,
            words.cpus,
            words.gpus,
            words.restarts,
        ):
            if isinstance(event, Epoch):
                folder.write_epoch(event)
                print(_line(event.result, setup.config.training.epochs))
            elif isinstance(event, Broken):
                folder.write_broken(event.images)
            elif isinstance(event, Began) and event.epoch:
                print(f"going on after epoch {event.epoch}")


def _readers(words: argparse.Namespace, workers: int, cluster: Cluster) -> dict[str, Any]:
    """The CPUs that training leaves free read images; where it leaves none they share them."""
    free = int(sum(cpus for cpus, _ in cluster.nodes)) - workers * words.cpus
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


def _conclude(
    words: argparse.Namespace, folder: PretrainingFolder, backbone: str, size: int
) -> None:
    if folder.broken:
        print(f"{folder.broken:,} images could not be read, see {folder.path / FAILED}")
    kept = json.loads((folder.path / "scores.json").read_text())
    print(f"weights: {folder.weights} (epoch {kept['epoch']})")
    flags = ["--images", words.images, "--backbone", backbone, "--size", str(size)]
    command = ["python", "sweeps/extract.py", *flags, "--weights", str(folder.weights)]
    print(f"next: {shlex.join(command)} --out FEATURES")


if __name__ == "__main__":
    run_program(main)
