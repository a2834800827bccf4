"""Planted faces on disk, in the challenge's own layout, with the score of who knew the path."""

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

from mtl.dataset import SPLITS
from mtl.dataset.annotations import FILE_NAMES
from mtl.errors import InputError
from mtl.evaluation.metrics import scores
from mtl.predictions.submission import write_submission
from mtl.synthetic.demo import Planted, plant
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
CHUNK_FRAMES = 64  # drawn before they are written, so that long videos cost no memory
JITTER = 1e-12  # variance of a path that is known: 0 has no Cholesky factor

Progress = Callable[[int, int], None]


def make_faces(
    out: str | Path,
    seed: int = 20221018,
    demo: Demo | None = None,
    faces: Faces | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Plant a dataset of faces whose labels are those of ``plant(demo, seed)``.

    The folder appears whole or not at all: ``cropped_aligned/<video>/<00001>.jpg`` of every listed
    frame, ``annotations/`` with the challenge's three files, ``subjects.csv`` and ``faces.json``.
    Valence and arousal are written with 4 decimals. The same seed gives the same bytes.

    Args:
        out: The folder to make.
        seed: Of everything random, 0 or more.
        demo: Videos, frames and labels; ``FACES_DEMO`` unless told.
        faces: How they are drawn.
        progress: Is told the frames written and all frames after each video.

    Returns:
        What ``faces.json`` holds: seed, counts, the generator's numbers and ``known_path``, the
        validation scores of who knew the hidden affect path exactly: the ceiling of what
        pictures can tell, but for luck and for thresholds chosen to suit F1.

    Raises:
        InputError: ``out`` exists, or its place cannot be written.
    """
    demo, faces = demo or FACES_DEMO, faces or Faces()
    with _draft(Path(out)) as draft:
        planted = plant(demo, seed)
        _write_pictures(
            draft / CROPS, planted, draw_scene(seed, planted.layout, faces), faces, progress
        )
        _write_annotations(draft / ANNOTATIONS, planted)
        pairs = zip(planted.layout.names, planted.layout.subjects, strict=True)
        rows = ["video,subject", *(",".join(pair) for pair in pairs)]
        (draft / SUBJECTS_FILE).write_text("\n".join(rows) + "\n")
        about = {
            "seed": seed,
            **_counts(planted),
            "known_path": known_path_scores(planted),
            "generator": {"demo": asdict(demo), "faces": asdict(faces)},
        }
        write_json(draft / FACES_FILE, about)
    return about


def unit_intensities(
    readouts: Readouts, affect: Float64[np.ndarray, "N S"], softness: float
) -> Float32[np.ndarray, "N 12"]:
    """How strongly each action unit shows, 0 to 1: a logistic of its readout without label noise.

    It is 1/2 at the unit's threshold. Legend: N frames, S affect dimensions.

    Args:
        readouts: The labels' distribution given the path.
        affect: The hidden affect path.
        softness: In the readout's standard deviation.
    """
    margin = affect @ readouts.units.T - readouts.unit_threshold
    return np.asarray(1 / (1 + np.exp(-margin / softness)), dtype=np.float32)


def known_path_scores(planted: Planted, split: str = "validation") -> dict[str, Any]:
    """``metrics.scores`` on a split of the best predictions given the affect path itself."""
    rows = planted.layout.rows(split)
    affect = planted.states[rows][:, planted.world.affect]
    known = np.broadcast_to(JITTER * np.eye(affect.shape[1]), (len(affect), *[affect.shape[1]] * 2))
    outputs = predict(planted.world.readouts, affect, known)
    return dict(scores(outputs, planted.labels[rows], planted.mask[rows]))


def _write_pictures(
    folder: Path, planted: Planted, scene: Scene, faces: Faces, progress: Progress | None
) -> None:
    layout, world = planted.layout, planted.world
    shown = unit_intensities(world.readouts, planted.states[:, world.affect], faces.softness)
    done = 0
    for name, frames in zip(layout.names, layout.frames, strict=True):
        (folder / name).mkdir(parents=True)
        for start in range(0, len(frames), CHUNK_FRAMES):
            own = frames[start : start + CHUNK_FRAMES]
            rows = np.arange(done, done + len(own))
            pictures = draw_faces(shown[rows], scene.take(rows), faces.size)
            for frame, picture in zip(own, pictures, strict=True):
                file = folder / name / f"{frame:05d}.jpg"
                Image.fromarray(picture).save(file, quality=faces.quality)
            done += len(own)
        if progress is not None:
            progress(done, len(scene))


def _write_annotations(folder: Path, planted: Planted) -> None:
    folder.mkdir()
    layout = planted.layout
    images = np.array(
        [
            f"{name}/{frame:05d}.jpg"
            for name, frames in zip(layout.names, layout.frames, strict=True)
            for frame in frames
        ]
    )
    for split in SPLITS:
        rows, file = layout.rows(split), folder / FILE_NAMES[split][0]
        names = images[rows].tolist()
        if split == "test":
            file.write_text("\n".join(["image", *names]) + "\n")
        else:
            write_submission(file, names, planted.labels[rows], planted.mask[rows])


def _counts(planted: Planted) -> dict[str, dict[str, int]]:
    layout = planted.layout
    return {
        "videos": {split: layout.splits.count(split) for split in SPLITS},
        "frames": {split: int(layout.rows(split).sum()) for split in SPLITS},
    }


@contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    """A folder to fill, which is put in its place when that is done."""
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
