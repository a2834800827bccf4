"""Extract features of face crops with a pool of workers on Ray, one row for each frame.

python sweeps/extract.py --images DIR --backbone NAME --weights FILE|hub|random --out DIR
                         [--annotations DIR] [--size PX] [--workers N|auto] [--cpus 1] [--gpus 0]
                         [--retry-failed] [--overwrite]

The image folder holds <video>/<00001>.jpg, on this machine or on s3://. The same command continues
after an interruption. Images that cannot be read are listed in OUT/failed_images.csv with the
reason.
"""

import argparse
import hashlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtl.dataset.annotations import read_annotations
from mtl.dataset.storage import local_path
from mtl.errors import InputError
from mtl.features.backbones import Backbone, load_backbone
from mtl.features.face_crops import CropFrames, find_images, frames_of, images_address
from mtl.features.weights import digest
from sweeps.cli.arguments import make_parser
from sweeps.cli.frame_progress import FrameProgress
from sweeps.cli.pool_arguments import add_pool_arguments, check_pool, pool_workers
from sweeps.cli.run_program import run_program
from sweeps.cluster.connection import Cluster, choose_address, connect
from sweeps.extraction.folder import FAILED, check_folder, locked_folder, write_failed, write_part
from sweeps.storage.environment import environment

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
MAX_SEED = 2**63 - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Extract the missing features of face crops and print a summary: the program ``extract.py``.

    Args:
        argv: Arguments of the command line; None for those of the process.

    Returns:
        Exit code 0.

    Raises:
        InputError: If an argument or an input is wrong, or no image can be read.
    """
    arguments = _parse(argv)
    _check_arguments(arguments)
    folder = local_path(arguments.out)
    frames = _frames(arguments)
    backbone = load_backbone(arguments.backbone, arguments.weights, arguments.size, arguments.seed)
    manifest = _manifest(arguments, frames, backbone)
    missing = check_folder(folder, manifest, arguments.overwrite, arguments.retry_failed)
    print(
        f"{len(frames):,} images of {len(frames.names):,} videos in {arguments.images}, "
        f"{backbone.name} ({backbone.size} px, {backbone.width} features, "
        f"{arguments.weights} weights)"
    )
    if missing:
        # Otherwise Ray warns for every actor pool that its constructor arguments may be lost.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        with connect(choose_address(arguments.address)) as cluster:
            _extract(arguments, folder, frames, backbone, manifest, missing, cluster)
    _write_failed_and_report(arguments, folder, frames, manifest)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--images",
        required=True,
        metavar="DIR",
        help="folder or s3:// address of the face crops, <video>/<00001>.jpg",
    )
    parser.add_argument(
        "--backbone",
        required=True,
        metavar="NAME",
        help="such as iresnet50, mae_vit_base, or timm:MODEL for a model of timm",
    )
    parser.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="file of weights, hub for timm's pretrained ones, or random",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the feature set")
    parser.add_argument(
        "--annotations",
        metavar="DIR",
        help="folder of the challenge's annotation files: extract only the frames that they list "
        "(default: all)",
    )
    parser.add_argument(
        "--size", type=int, metavar="PX", help="side of the input image (default: the backbone's)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of random weights (default: 0)"
    )
    parser.add_argument(
        "--batch", type=int, default=64, metavar="N", help="images of one batch (default: 64)"
    )
    parser.add_argument(
        "--chunk",
        type=int,
        default=2048,
        metavar="N",
        help="frames of one part file, the unit of work of a worker (default: 2048)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="floating-point type of the computation (default: auto, by the device)",
    )
    add_pool_arguments(parser)
    parser.add_argument(
        "--retry-failed", action="store_true", help="redo the parts that hold failed images"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="delete an extraction in OUT and start again"
    )
    return parser.parse_args(argv)


def _check_arguments(arguments: argparse.Namespace) -> None:
    check_pool(arguments)
    if arguments.gpus > 1:
        raise InputError(
            f"--gpus {arguments.gpus:g} must be at most 1, as a worker uses one: give more "
            "--workers"
        )
    for option in ("batch", "chunk"):
        value = getattr(arguments, option)
        if value < 1:
            raise InputError(f"--{option} {value} must be at least 1")
    if not 0 <= arguments.seed <= MAX_SEED:
        raise InputError(f"--seed {arguments.seed} must be from 0 to 2^63 - 1")


def _frames(arguments: argparse.Namespace) -> CropFrames:
    images = find_images(images_address(arguments.images))
    if images.left_out:
        print(images.left_out)
    challenge = read_annotations(arguments.annotations) if arguments.annotations else None
    return frames_of(images, challenge)


def _manifest(
    arguments: argparse.Namespace, frames: CropFrames, backbone: Backbone
) -> dict[str, Any]:
    """Return the content of ``extraction.json``: settings and hashes of the extraction's inputs."""
    files = "\n".join(frames.images.files.to_pylist())
    current = environment()
    return {
        "backbone": backbone.name,
        "weights": arguments.weights,
        "weights_sha256": digest(backbone.state_dict()),
        "size": backbone.size,
        "width": backbone.width,
        "images": frames.images.address,
        "frames": len(frames),
        "frames_sha256": hashlib.sha256(files.encode()).hexdigest(),
        "chunk": arguments.chunk,
        "parts": -(-len(frames) // arguments.chunk),
        "batch": arguments.batch,
        "device": "cuda" if arguments.gpus else "cpu",
        "precision": arguments.precision,
        **{key: current[key] for key in ("started", "command", "commit")},
    }


def _extract(
    arguments: argparse.Namespace,
    folder: Path,
    frames: CropFrames,
    backbone: Backbone,
    manifest: dict[str, Any],
    missing: list[int],
    cluster: Cluster,
) -> None:
    """Extract the missing chunks on Ray; write the file of each chunk as soon as it is ready.

    A chunk is the frames of one output file.

    Args:
        arguments: Parsed arguments of the command line.
        folder: Output folder.
        frames: All frames of the extraction with their images.
        backbone: Backbone that computes the features.
        manifest: Content of ``extraction.json``.
        missing: Numbers of the chunks to extract.
        cluster: The connected Ray cluster.
    """
    # This module imports Ray, which reads environment variables that connect() sets.
    from sweeps.extraction.workers import ExtractionPlan, extract_chunks

    capacity = pool_workers(arguments, cluster)
    workers = min(capacity, len(missing))
    chunks_limit = len(missing) == manifest["parts"] < capacity
    note = ", one for each part: a smaller --chunk uses more" if chunks_limit else ""
    print(
        f"{workers} workers{note}, {len(missing)} of {manifest['parts']} parts to make; "
        f"Ray's dashboard: {cluster.dashboard}"
    )
    plan = ExtractionPlan(
        arguments.backbone,
        backbone.size,
        arguments.batch,
        arguments.chunk,
        manifest["device"],
        arguments.precision,
    )
    sizes = {chunk: len(plan.rows(chunk, len(frames))) for chunk in missing}
    done = len(frames) - sum(sizes.values())
    progress = FrameProgress(len(frames), done)
    parts = extract_chunks(frames, backbone, plan, missing, workers, arguments.cpus, arguments.gpus)
    with locked_folder(folder, manifest, arguments.overwrite):
        for part in parts:
            write_part(folder, part.chunk, part.content)
            done += sizes[part.chunk]
            progress.update(done)


def _write_failed_and_report(
    arguments: argparse.Namespace, folder: Path, frames: CropFrames, manifest: dict[str, Any]
) -> None:
    failed = write_failed(folder, manifest["parts"], frames.missing_images)
    extracted = len(frames) - (len(failed) - len(frames.missing_images))
    retry = "--retry-failed tries them again"
    if not extracted:
        image, reason = failed[0]
        raise InputError(
            f"none of the {len(frames):,} images of {arguments.images} has features (the first, "
            f"{image}: {reason}): see {folder / FAILED}, {retry}"
        )
    if failed:
        print(
            f"{len(failed):,} images failed, listed with the reason in {folder / FAILED}"
            f"{f'; {retry}' if extracted < len(frames) else ''}"
        )
    print(f"features: {folder} ({extracted:,} frames, {manifest['width']} wide)")
    source = shlex.quote(f"{folder.name}={arguments.out}")
    annotations = shlex.quote(arguments.annotations or "ANNOTATIONS")
    print(
        f"next: python sweeps/prepare.py --annotations {annotations} --features {source} "
        "--out DATASET"
    )


if __name__ == "__main__":
    run_program(main)
