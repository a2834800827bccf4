"""What is drawn once for all videos: how the path is read, and how each feature set sees it.

The state of a video is its affect path (S dimensions), then, for each feature set, what only that
set sees: nuisance processes and offsets. These point along the set's own view of the affect path,
so that no single frame tells them from affect, and only time does: offsets never change, affect
returns to its mean. Legend: N frames, S affect dimensions, K state dimensions, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Float64

from mtl.synthetic.label_model import Readouts
from mtl.synthetic.parameters import Demo, View
from mtl.tasks import EXPRESSION, UNITS


@dataclass(frozen=True)
class Camera:
    """One feature set: ``mean + scale * (loadings @ state + white noise)``.

    Attributes:
        loadings: In standard deviations of the noise.
        mean, scale: Of each feature.
    """

    loadings: Float64[np.ndarray, "F K"]
    mean: Float64[np.ndarray, " F"]
    scale: Float64[np.ndarray, " F"]

    def see(
        self, rng: np.random.Generator, states: Float64[np.ndarray, "N K"]
    ) -> Float16[np.ndarray, "N F"]:
        """The features of these states."""
        seen = states @ self.loadings.T
        seen += rng.standard_normal(seen.shape)
        return np.asarray(self.mean + self.scale * seen, dtype=np.float16)

    def whiten(self, features: Float16[np.ndarray, "N F"]) -> Float64[np.ndarray, "N F"]:
        """Undo mean and scale: ``loadings @ state`` plus noise of variance 1."""
        return np.asarray((features.astype(np.float64) - self.mean) / self.scale)


@dataclass(frozen=True)
class World:
    """The constants of all videos; ``affect`` is where the affect path stands in the state."""

    time_constants: Float64[np.ndarray, " K"]  # in frames
    cameras: dict[str, Camera]
    readouts: Readouts
    affect: slice


def draw_world(rng: np.random.Generator, demo: Demo) -> World:
    """Directions and loadings; expression biases and unit thresholds are still 0."""
    sizes = [len(block) for block in demo.affect_seconds]
    own = (*demo.nuisance_seconds, *[np.inf] * demo.offsets)
    seconds = [s for block in demo.affect_seconds for s in block] + list(own) * len(demo.views)
    cameras = {
        name: _camera(rng, demo, view, sizes, number)
        for number, (name, view) in enumerate(demo.views)
    }
    return World(
        time_constants=np.array(seconds) * demo.frames_per_second,
        cameras=cameras,
        readouts=_readouts(rng, demo, sizes),
        affect=slice(0, sum(sizes)),
    )


def _camera(
    rng: np.random.Generator, demo: Demo, view: View, sizes: Sequence[int], number: int
) -> Camera:
    affect = sum(sizes)
    own = len(demo.nuisance_seconds) + demo.offsets
    sight = rng.standard_normal((view.width, affect)) * np.repeat(view.gains, sizes)
    mixed = sight @ rng.standard_normal((affect, own))
    strength = [demo.nuisance] * len(demo.nuisance_seconds) + [demo.offset] * demo.offsets
    loadings = np.zeros((view.width, affect + own * len(demo.views)))
    loadings[:, :affect] = demo.signal * sight
    start = affect + own * number
    loadings[:, start : start + own] = mixed / mixed.std(axis=0) * strength
    return Camera(
        loadings=loadings,
        mean=rng.normal(0, 1, view.width),
        scale=rng.lognormal(0, 0.5, view.width),
    )


def _readouts(rng: np.random.Generator, demo: Demo, sizes: Sequence[int]) -> Readouts:
    affect = [_directions(rng, 1, blocks, sizes) for blocks in demo.affect_blocks]
    expression = _directions(rng, EXPRESSION.width, demo.expression_blocks, sizes)
    return Readouts(
        affect=np.concatenate(affect),
        affect_mean=np.array(demo.affect_mean),
        affect_spread=np.array(demo.affect_spread),
        affect_noise=np.array(demo.affect_noise),
        expression=demo.expression_sharpness * expression,
        expression_bias=np.zeros(EXPRESSION.width),
        units=_directions(rng, UNITS.width, demo.unit_blocks, sizes),
        unit_threshold=np.zeros(UNITS.width),
        unit_noise=demo.unit_noise,
    )


def _directions(
    rng: np.random.Generator, count: int, blocks: Sequence[float], sizes: Sequence[int]
) -> np.ndarray:
    """Random unit vectors with weighted blocks, shape (count, S)."""
    vectors = rng.standard_normal((count, sum(sizes))) * np.repeat(blocks, sizes)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
