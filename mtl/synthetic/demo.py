"""Draw the planted dataset, score its exact posterior, write both."""

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64

from mtl.dataset import Dataset, Listing, write_dataset
from mtl.evaluation.metrics import scores
from mtl.predictions.table import Predictions
from mtl.synthetic.label_model import (
    Noise,
    Readouts,
    draw_labels,
    expression_scores,
    fit_expression_bias,
    fit_unit_threshold,
    predict,
    unit_scores,
)
from mtl.synthetic.layout import Layout, label_mask, lay_out
from mtl.synthetic.ornstein_uhlenbeck import sample, smooth
from mtl.synthetic.parameters import Demo
from mtl.synthetic.world import World, draw_world
from mtl.tasks import EXPRESSION, UNITS

CEILING_FILE = "ceiling.parquet"


@dataclass(frozen=True)
class Planted:
    """A drawn dataset: N listed frames over all videos, in listing order.

    Attributes:
        world: Constants of all videos.
        layout: Videos and frames.
        states: The hidden path.
        labels: Every label, known or not.
        mask: Which are known.
        features: Of each set.
    """

    world: World
    layout: Layout
    states: Float64[np.ndarray, "N K"]
    labels: Float32[np.ndarray, "N 15"]
    mask: Bool[np.ndarray, "N 15"]
    features: dict[str, Float16[np.ndarray, "N _"]]


def make_demo(out: str | Path, seed: int = 20221018, demo: Demo | None = None) -> Dataset:
    """Plant a dataset directory; the same seed gives the same content hash.

    ``dataset.json`` gets the ceiling (``extra.ceiling``): the validation scores of the exact
    posterior given all features. Its predictions, to be scored on any part of the validation
    videos, are written beside it as ``ceiling.parquet``.

    Args:
        out: The directory to write.
        seed: Of everything random.
        demo: Size and difficulty.
    """
    demo = demo or Demo()
    return write_planted(out, plant(demo, seed), seed, demo)


def write_planted(out: str | Path, planted: Planted, seed: int, demo: Demo) -> Dataset:
    """Write what was drawn, with the ceiling; ``seed`` and ``demo`` are noted in it."""
    ceiling = best_predictions(planted, "validation")
    rows = planted.layout.rows("validation")
    reached = scores(ceiling.outputs, planted.labels[rows], planted.mask[rows])
    dataset = write_dataset(
        out,
        _listing(planted),
        {name: _by_video(planted.layout, planted.features[name]) for name in planted.features},
        sources={"planted": f"mtl.synthetic, seed {seed}"},
        extra={"ceiling": reached, "generator": {"seed": seed, **asdict(demo)}},
    )
    ceiling.save(Path(out) / CEILING_FILE)
    return dataset


def plant(demo: Demo, seed: int) -> Planted:
    """Draw everything; each part has its own stream of random numbers."""
    names = ("layout", "mask", "world", "path", "labels", "features")
    streams = np.random.SeedSequence(seed).spawn(len(names))
    rng = {name: np.random.default_rng(s) for name, s in zip(names, streams, strict=True)}
    layout = lay_out(rng["layout"], demo)
    mask = label_mask(rng["mask"], layout, demo.run_frames)
    world = draw_world(rng["world"], demo)
    states = np.concatenate([sample(rng["path"], f, world.time_constants) for f in layout.frames])
    affect = states[:, world.affect]
    noise = Noise.draw(rng["labels"], len(states))
    readouts = _fit(world.readouts, affect, noise, mask & layout.rows("train")[:, None])
    return Planted(
        world=replace(world, readouts=readouts),
        layout=layout,
        states=states,
        labels=draw_labels(readouts, affect, noise),
        mask=mask,
        features={name: c.see(rng["features"], states) for name, c in world.cameras.items()},
    )


def _fit(readouts: Readouts, affect: np.ndarray, noise: Noise, mask: np.ndarray) -> Readouts:
    """Biases and thresholds that give the challenge's class frequencies where labels are known."""
    expression, units = mask[:, EXPRESSION.labels.start], mask[:, UNITS.labels.start]
    return replace(
        readouts,
        expression_bias=fit_expression_bias(expression_scores(readouts, affect, noise)[expression]),
        unit_threshold=fit_unit_threshold(unit_scores(readouts, affect, noise)[units]),
    )


def best_predictions(
    planted: Planted, split: str, sets: Collection[str] | None = None
) -> Predictions:
    """The exact posterior's predictions for every listed frame of a split.

    Args:
        planted: What was drawn.
        split: Whose frames.
        sets: The feature sets that are given; all unless told.
    """
    world, layout = planted.world, planted.layout
    cameras = {name: world.cameras[name] for name in sets or world.cameras}
    loadings = np.concatenate([camera.loadings for camera in cameras.values()])
    seen = [camera.whiten(planted.features[name]) for name, camera in cameras.items()]
    whole, rows, affect = np.concatenate(seen, axis=1), layout.rows(split), world.affect
    outputs = []
    for index in np.unique(layout.video[rows]):
        own, frames = whole[layout.video == index], layout.frames[index]
        means, covariances = smooth(own, loadings, frames, world.time_constants)
        outputs.append(predict(world.readouts, means[:, affect], covariances[:, affect, affect]))
    return Predictions(
        video=layout.video[rows],
        frame=np.concatenate(layout.frames)[rows],
        names=layout.names,
        outputs=np.concatenate(outputs),
    )


def _listing(planted: Planted) -> Listing:
    layout = planted.layout
    return Listing(
        names=layout.names,
        splits=layout.splits,
        subjects=layout.subjects,
        video=layout.video,
        frame=np.concatenate(layout.frames),
        values=np.where(planted.mask, planted.labels, 0).astype(np.float32),
        mask=planted.mask,
    )


def _by_video(layout: Layout, features: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    ends = np.cumsum([len(frames) for frames in layout.frames])[:-1]
    return zip(layout.names, layout.frames, np.split(features, ends), strict=True)
