"""Draw and write a synthetic dataset, and the predictions of its exact Bayesian posterior."""

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
from mtl.synthetic.layout import Layout, draw_layout, label_mask
from mtl.synthetic.ornstein_uhlenbeck import sample, smooth
from mtl.synthetic.parameters import Demo
from mtl.synthetic.world import World, draw_world
from mtl.tasks import EXPRESSION, UNITS

CEILING_FILE = "ceiling.parquet"
"""Predictions of the exact posterior for the validation frames, in the dataset folder."""


@dataclass(frozen=True)
class Planted:
    """Synthetic dataset in memory.

    Legend: N listed frames (all frames named in the annotation files) of all videos, K dimensions
    of the latent time series.

    Attributes:
        world: Random constants that all videos share, such as the weights of the labels.
        layout: Videos and the numbers of their listed frames.
        states: Latent time series from which labels and features are drawn, one state per frame.
        labels: All 15 labels of each frame, also those that the written dataset leaves out.
        mask: True where a label is written to the dataset.
        features: Features of each frame, by name of the feature set.
    """

    world: World
    layout: Layout
    states: Float64[np.ndarray, "N K"]
    labels: Float32[np.ndarray, "N 15"]
    mask: Bool[np.ndarray, "N 15"]
    features: dict[str, Float16[np.ndarray, "N _"]]


def make_demo(out: str | Path, seed: int = 20221018, demo: Demo | None = None) -> Dataset:
    """Draw and write a synthetic dataset; the same seed gives the same content hash.

    ``extra.ceiling`` in the written ``dataset.json`` holds the validation scores of the exact
    posterior of the labels given all features: an approximate upper bound for any model. The
    predictions of this posterior are written to ``ceiling.parquet`` in the same directory, so that
    they can be scored on any subset of the validation videos.

    Args:
        out: The dataset directory to write.
        seed: Seed of all random draws.
        demo: Size and difficulty of the dataset; ``Demo()`` if None.

    Returns:
        The written dataset, opened.
    """
    demo = demo or Demo()
    return write_planted(out, plant(demo, seed), seed, demo)


def write_planted(out: str | Path, planted: Planted, seed: int, demo: Demo) -> Dataset:
    """Write a synthetic dataset and the best predictions for it, and return the dataset opened.

    The best predictions are those of the exact posterior of the labels given all features. Those
    for the validation frames are written to ``ceiling.parquet``, and their scores to
    ``dataset.json``. The scores are an approximate upper bound for any model.

    Args:
        out: Dataset directory to write.
        planted: The synthetic dataset in memory.
        seed: Seed with which ``planted`` was drawn, to record in ``dataset.json``.
        demo: Parameters with which ``planted`` was drawn, to record in ``dataset.json``.
    """
    ceiling = best_predictions(planted, "validation")
    rows = planted.layout.rows("validation")
    ceiling_scores = scores(ceiling.outputs, planted.labels[rows], planted.mask[rows])
    dataset = write_dataset(
        out,
        listing(planted),
        {name: _by_video(planted.layout, planted.features[name]) for name in planted.features},
        sources={"planted": f"mtl.synthetic, seed {seed}"},
        extra={"ceiling": ceiling_scores, "generator": {"seed": seed, **asdict(demo)}},
    )
    ceiling.save(Path(out) / CEILING_FILE)
    return dataset


def plant(demo: Demo, seed: int) -> Planted:
    """Draw a synthetic dataset in memory.

    Videos, missing labels, shared constants, latent time series, labels and features have separate
    random streams, so that a change in one of them leaves the others as they were.

    Args:
        demo: Size and difficulty of the dataset.
        seed: Seed from which the random streams are spawned.
    """
    names = ("layout", "mask", "world", "path", "labels", "features")
    streams = np.random.SeedSequence(seed).spawn(len(names))
    rng = {name: np.random.default_rng(s) for name, s in zip(names, streams, strict=True)}
    layout = draw_layout(rng["layout"], demo)
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
        features={name: c.observe(rng["features"], states) for name, c in world.cameras.items()},
    )


def _fit(readouts: Readouts, affect: np.ndarray, noise: Noise, mask: np.ndarray) -> Readouts:
    """Fit the biases and thresholds of labels to the challenge's class frequencies.

    Args:
        readouts: Linear maps from the latent affect to the labels, with biases and thresholds of 0.
        affect: Latent affect, a time series on which all labels depend: (frames, dimensions).
        noise: Label noise of the same frames.
        mask: True for the training labels on which the frequencies are matched, (frames, 15).

    Returns:
        A copy of ``readouts`` with the fitted biases and thresholds.
    """
    expression, units = mask[:, EXPRESSION.labels.start], mask[:, UNITS.labels.start]
    return replace(
        readouts,
        expression_bias=fit_expression_bias(expression_scores(readouts, affect, noise)[expression]),
        unit_threshold=fit_unit_threshold(unit_scores(readouts, affect, noise)[units]),
    )


def best_predictions(
    planted: Planted, split: str, sets: Collection[str] | None = None
) -> Predictions:
    """Predict all listed frames of a split with the exact Bayesian posterior of the labels.

    Listed frames are the frames named in the annotation files. The posterior uses the true
    constants from which the dataset was drawn, so the scores of these predictions are an
    approximate upper bound for any model.

    Args:
        planted: The synthetic dataset in memory.
        split: "train", "validation" or "test".
        sets: Names of the feature sets that the posterior is conditioned on; all sets if None.
    """
    world, layout = planted.world, planted.layout
    cameras = {name: world.cameras[name] for name in sets or world.cameras}
    loadings = np.concatenate([camera.loadings for camera in cameras.values()])
    rows, affect = layout.rows(split), world.affect
    outputs = []
    for index in np.unique(layout.video[rows]):
        frames, of_video = layout.frames[index], layout.video == index
        whitened = [c.whiten(planted.features[name][of_video]) for name, c in cameras.items()]
        features = np.concatenate(whitened, axis=1)
        means, covariances = smooth(features, loadings, frames, world.time_constants)
        outputs.append(predict(world.readouts, means[:, affect], covariances[:, affect, affect]))
    return Predictions(
        video=layout.video[rows],
        frame=np.concatenate(layout.frames)[rows],
        names=layout.names,
        outputs=np.concatenate(outputs),
    )


def listing(planted: Planted) -> Listing:
    """Return the frames of a synthetic dataset with their labels; missing labels are 0."""
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
    """Return an iterator over videos: a tuple of name, frame numbers and features of each.

    Args:
        layout: Videos and the numbers of their frames.
        features: Features of the frames of all videos, one video after the other.
    """
    ends = np.cumsum([len(frames) for frames in layout.frames])[:-1]
    return zip(layout.names, layout.frames, np.split(features, ends), strict=True)
