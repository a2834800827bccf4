"""Write synthetic faces to disk in the challenge's layout, with the best possible scores."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64
from PIL import Image

from mtl.dataset import SPLITS, Listing
from mtl.dataset.annotations import FILE_NAMES
from mtl.errors import InputError
from mtl.evaluation.metrics import scores
from mtl.predictions.submission import write_submission
from mtl.synthetic.demo import Planted, listing, plant
from mtl.synthetic.faces.parameters import FACES_DEMO, Faces
from mtl.synthetic.faces.rendering import draw_faces
from mtl.synthetic.faces.scene import Scene, draw_scene
from mtl.synthetic.label_model import Readouts, predict
from mtl.synthetic.parameters import Demo
from mtl.whole_files import write_json

CROPS, ANNOTATIONS, SUBJECTS_FILE, FACES_FILE = (
    "cropped_aligned",
    "annotations",
    "subjects.csv",
    "faces.json",
)
CHUNK_FRAMES = 64
"""Number of pictures drawn at once, which bounds memory on long videos."""

# A covariance of 0 has no Cholesky factor.
JITTER = 1e-12
"""Variance given to the latent affect when it is treated as known exactly."""

Progress = Callable[[int, int], None]
"""Function called with the number of frames written and the number of all frames."""


def make_faces(
    out: str | Path,
    seed: int = 20221018,
    demo: Demo | None = None,
    faces: Faces | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw and write a synthetic dataset of face pictures with labels.

    The labels are those of ``plant(demo, seed)``, which draws a synthetic dataset in memory. The
    folder holds ``cropped_aligned/<video>/<00001>.jpg`` for every listed (annotated) frame,
    ``annotations/`` with the challenge's three files, ``subjects.csv`` and ``faces.json``. It
    appears only when it is complete. Valence and arousal are written with 4 decimals. The same seed
    gives the same bytes.

    Args:
        out: The folder to create.
        seed: Seed of all random draws, 0 or more.
        demo: Videos, frames and labels; ``FACES_DEMO`` if None.
        faces: Parameters of the pictures; ``Faces()`` if None.
        progress: Called after each video with the number of written frames and of all frames.

    Returns:
        The content of ``faces.json``: seed, counts, the generator's parameters, and ``known_path``,
        the validation scores of the best predictions from the exact latent time series. A model of
        the pictures exceeds these scores only by chance or by thresholds tuned for F1.

    Raises:
        InputError: ``out`` exists already or cannot be created.
    """
    demo, faces = demo or FACES_DEMO, faces or Faces()
    with _complete_or_absent(Path(out)) as draft:
        planted = plant(demo, seed)
        _write_pictures(
            draft / CROPS, planted, draw_scene(seed, planted.layout, faces), faces, progress
        )
        write_annotations(draft / ANNOTATIONS, listing(planted))
        pairs = zip(planted.layout.names, planted.layout.subjects, strict=True)
        rows = ["video,subject", *(",".join(pair) for pair in pairs)]
        (draft / SUBJECTS_FILE).write_text("\n".join(rows) + "\n")
        summary = {
            "seed": seed,
            **_counts(planted),
            "known_path": known_path_scores(planted),
            "generator": {"demo": asdict(demo), "faces": asdict(faces)},
        }
        write_json(draft / FACES_FILE, summary)
    return summary


def unit_intensities(
    readouts: Readouts, affect: Float64[np.ndarray, "N S"], softness: float
) -> Float32[np.ndarray, "N 12"]:
    """Return the intensity of each action unit in N frames, 0 to 1.

    The intensity is a logistic function of the unit's noise-free score (a linear map of the latent
    affect, variance 1); it is 1/2 at the threshold above which the unit is active.

    Args:
        readouts: Linear maps from the latent affect to the labels, with thresholds.
        affect: Latent affect, the time series on which all labels depend: N frames, S dimensions.
        softness: Width of the logistic, in standard deviations of the score.
    """
    margin = affect @ readouts.units.T - readouts.unit_threshold
    return np.asarray(1 / (1 + np.exp(-margin / softness)), dtype=np.float32)


def known_path_scores(planted: Planted, split: str = "validation") -> dict[str, Any]:
    """Return the scores of the best predictions from the exact latent time series of each frame.

    The keys are those of ``mtl.evaluation.metrics.scores``, such as ``ccc_valence``.

    Args:
        planted: The synthetic dataset in memory.
        split: "train", "validation" or "test".
    """
    rows = planted.layout.rows(split)
    affect = planted.states[rows][:, planted.world.affect]
    known = np.broadcast_to(JITTER * np.eye(affect.shape[1]), (len(affect), *[affect.shape[1]] * 2))
    outputs = predict(planted.world.readouts, affect, known)
    return dict(scores(outputs, planted.labels[rows], planted.mask[rows]))


def _write_pictures(
    folder: Path, planted: Planted, scene: Scene, faces: Faces, progress: Progress | None
) -> None:
    """Draw all frames of all videos and write them as JPEG files, one folder per video."""
    layout, world = planted.layout, planted.world
    intensities = unit_intensities(world.readouts, planted.states[:, world.affect], faces.softness)
    done = 0
    for name, frames in zip(layout.names, layout.frames, strict=True):
        (folder / name).mkdir(parents=True)
        for start in range(0, len(frames), CHUNK_FRAMES):
            chunk = frames[start : start + CHUNK_FRAMES]
            rows = np.arange(done, done + len(chunk))
            pictures = draw_faces(intensities[rows], scene.take(rows), faces.size)
            for frame, picture in zip(chunk, pictures, strict=True):
                file = folder / name / f"{frame:05d}.jpg"
                Image.fromarray(picture).save(file, quality=faces.quality)
            done += len(chunk)
        if progress is not None:
            progress(done, len(scene))


def write_annotations(folder: Path, frames: Listing) -> None:
    """Write the challenge's three annotation files; the test file names images without labels.

    Args:
        folder: Folder to make.
        frames: The frames of all splits with their labels.
    """
    folder.mkdir()
    images = [
        f"{frames.names[video]}/{frame:05d}.jpg"
        for video, frame in zip(frames.video, frames.frame, strict=True)
    ]
    for code, split in enumerate(SPLITS):
        rows, file = np.flatnonzero(frames.split == code), folder / FILE_NAMES[split][0]
        names = [images[row] for row in rows]
        if split == "test":
            file.write_text("\n".join(["image", *names]) + "\n")
        else:
            write_submission(file, names, frames.values[rows], frames.mask[rows])


def _counts(planted: Planted) -> dict[str, dict[str, int]]:
    layout = planted.layout
    return {
        "videos": {split: layout.splits.count(split) for split in SPLITS},
        "frames": {split: int(layout.rows(split).sum()) for split in SPLITS},
    }


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; rename it to ``folder`` on success, else delete it.

    Raises:
        InputError: ``folder`` exists already or cannot be created.
    """
    if folder.exists():
        raise InputError(f"{folder} exists already: remove it or give another folder")
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.draft")
    try:
        try:
            draft.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"cannot make {folder} ({error.strerror}): check the path") from None
        yield draft
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
