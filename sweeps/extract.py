"""Features of face crops by a pool of workers on Ray: one row for each frame.

python sweeps/extract.py --images DIR --backbone NAME --weights FILE|hub|random --out DIR
                         [--annotations DIR] [--size PX] [--workers N|auto] [--cpus 1] [--gpus 0]
                         [--retry-failed] [--overwrite]

DIR holds <video>/<00001>.jpg, here or on s3://. Killed and started again, it goes on. Images that
cannot be read are listed in OUT/failed_images.csv, with the reason.
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
from sweeps.cli.frame_progress import FrameProgress
from sweeps.cli.pool_arguments import add_pool_arguments, check_pool, pool_workers
from sweeps.cli.run_program import run_program
from sweeps.cluster.connection import Cluster, choose_address, connect
from sweeps.extraction.folder import FAILED, begin_folder, check_folder, write_failed, write_part
from sweeps.storage.environment import environment

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
LAST_SEED = 2**63 - 1


def main(argv: Sequence[str] | None = None) -> int:
    """Check everything, start Ray if there is something to do, and say what came out."""
    words = _arguments(argv)
    _check_words(words)
    folder = local_path(words.out)
    frames = _frames(words)
    backbone = load_backbone(words.backbone, words.weights, words.size, words.seed)
    manifest = _manifest(words, frames, backbone)
    missing = check_folder(folder, manifest, words.overwrite, words.retry_failed)
    print(
        f"{len(frames):,} images of {len(frames.names):,} videos in {words.images}, "
        f"{backbone.name} ({backbone.size} px, {backbone.width} features, {words.weights} weights)"
    )
    if missing:
        # Else Ray says, of each pool of actors whatsoever, that what it was built from may be lost.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        with connect(choose_address(words.address)) as cluster:
            _stream(words, folder, frames, backbone, manifest, missing, cluster)
    _conclude(words, folder, frames, manifest)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images", required=True, metavar="DIR", help="<video>/<00001>.jpg, local or s3://"
    )
    parser.add_argument(
        "--backbone", required=True, metavar="NAME", help="such as iresnet50, mae_vit_base, timm:X"
    )
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="a file of weights, or hub, or random"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the feature set to make")
    parser.add_argument(
        "--annotations", metavar="DIR", help="only the frames that the challenge's files list (all)"
    )
    parser.add_argument(
        "--size", type=int, metavar="PX", help="side of the input (the backbone's own)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random weights (0)")
    parser.add_argument("--batch", type=int, default=64, help="images at once (64)")
    parser.add_argument("--chunk", type=int, default=2048, help="frames of a part (2048)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="auto")
    add_pool_arguments(parser)
    parser.add_argument(
        "--retry-failed", action="store_true", help="do the parts again in which images failed"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin OUT anew")
    return parser.parse_args(argv)


def _check_words(words: argparse.Namespace) -> None:
    check_pool(words)
    if words.gpus > 1:
        raise InputError(
            f"--gpus {words.gpus:g} must be at most 1, as a worker uses one: give more --workers"
        )
    for option in ("batch", "chunk"):
        if getattr(words, option) < 1:
            raise InputError(f"--{option} {getattr(words, option)} must be at least 1")
    if not 0 <= words.seed <= LAST_SEED:
        raise InputError(f"--seed {words.seed} must be from 0 to 2^63 - 1")


def _frames(words: argparse.Namespace) -> CropFrames:
    images = find_images(images_address(words.images))
    if images.left_out:
        print(images.left_out)
    challenge = read_annotations(words.annotations) if words.annotations else None
    return frames_of(images, challenge)


def _manifest(words: argparse.Namespace, frames: CropFrames, backbone: Backbone) -> dict[str, Any]:
    """What ``extraction.json`` says."""
    files = "\n".join(frames.images.files.to_pylist())
    now = environment()
    return {
        "backbone": backbone.name,
        "weights": words.weights,
        "weights_sha256": digest(backbone.state_dict()),
        "size": backbone.size,
        "width": backbone.width,
        "images": frames.images.address,
        "frames": len(frames),
        "frames_sha256": hashlib.sha256(files.encode()).hexdigest(),
        "chunk": words.chunk,
        "parts": -(-len(frames) // words.chunk),
        "batch": words.batch,
        "device": "cuda" if words.gpus else "cpu",
        "precision": words.precision,
        **{key: now[key] for key in ("started", "command", "commit")},
    }


def _stream(
    words: argparse.Namespace,
    folder: Path,
    frames: CropFrames,
    backbone: Backbone,
    manifest: dict[str, Any],
    missing: list[int],
    cluster: Cluster,
) -> None:
    """Extract chunk after chunk and write each as it comes."""
    # Ray must be imported after its settings are made.
    from sweeps.extraction.workers import ExtractionPlan, extract_chunks

    fit = pool_workers(words, cluster)
    workers = min(fit, len(missing))
    more = ", one for each part: a smaller --chunk uses more"
    print(
        f"{workers} workers{more if len(missing) == manifest['parts'] < fit else ''}, "
        f"{len(missing)} of {manifest['parts']} parts to make; Ray's dashboard: {cluster.dashboard}"
    )
    plan = ExtractionPlan(
        words.backbone,
        backbone.size,
        words.batch,
        words.chunk,
        manifest["device"],
        words.precision,
    )
    sizes = {chunk: len(plan.rows(chunk, len(frames))) for chunk in missing}
    done = len(frames) - sum(sizes.values())
    progress = FrameProgress(len(frames), done)
    parts = extract_chunks(frames, backbone, plan, missing, workers, words.cpus, words.gpus)
    with begin_folder(folder, manifest, words.overwrite):
        for part in parts:
            write_part(folder, part.chunk, part.content)
            done += sizes[part.chunk]
            progress.at(done)


def _conclude(
    words: argparse.Namespace, folder: Path, frames: CropFrames, manifest: dict[str, Any]
) -> None:
    failed = write_failed(folder, manifest["parts"], frames.missing_images)
    extracted = len(frames) - (len(failed) - len(frames.missing_images))
    again = "--retry-failed tries them again"
    if not extracted:
        image, reason = failed[0]
        raise InputError(
            f"none of the {len(frames):,} images of {words.images} has features (the first, "
            f"{image}: {reason}): see {folder / FAILED}, {again}"
        )
    if failed:
        print(
            f"{len(failed):,} images failed, listed with the reason in {folder / FAILED}"
            f"{f'; {again}' if extracted < len(frames) else ''}"
        )
    print(f"features: {folder} ({extracted:,} frames, {manifest['width']} wide)")
    source = shlex.quote(f"{folder.name}={words.out}")
    annotations = shlex.quote(words.annotations or "ANNOTATIONS")
    print(
        f"next: python sweeps/prepare.py --annotations {annotations} --features {source} "
        "--out DATASET"
    )


if __name__ == "__main__":
    run_program(main)
