"""Random constants that all synthetic videos share: weights of the labels and of the features.

The latent state of a video consists of the latent affect (S dimensions, on which all labels depend)
and, for each feature set, of nuisance processes and constants that enter only this set. The
nuisances' weights in the features are combinations of the weights of affect, so a single frame
cannot separate nuisances from affect. Only the course over time can: the constants do not change
during a video, while affect returns to its mean. Legend: N frames, S affect dimensions, K state
dimensions, F features.
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
    """Observation model of one feature set: linear in the latent state, plus white noise.

    The features are ``mean + scale * (loadings @ state + noise)``.

    Attributes:
        loadings: Weight of each state dimension in each feature, in standard deviations of the
            noise.
        mean, scale: Mean and scale of each feature.
    """

    loadings: Float64[np.ndarray, "F K"]
    mean: Float64[np.ndarray, " F"]
    scale: Float64[np.ndarray, " F"]

    def observe(
        self, rng: np.random.Generator, states: Float64[np.ndarray, "N K"]
    ) -> Float16[np.ndarray, "N F"]:
        """Draw the features of each frame from the frame's latent state, with white noise."""
        observed = states @ self.loadings.T
        observed += rng.standard_normal(observed.shape)
        return np.asarray(self.mean + self.scale * observed, dtype=np.float16)

    def whiten(self, features: Float16[np.ndarray, "N F"]) -> Float64[np.ndarray, "N F"]:
        """Remove mean and scale of the features; what remains is signal and noise of variance 1."""
        return np.asarray((features.astype(np.float64) - self.mean) / self.scale)


@dataclass(frozen=True)
class World:
    """Random constants that all videos of a synthetic dataset share.

    Attributes:
        time_constants: Time constant of each dimension of the latent state, in frames.
        cameras: Observation model from the state to the features, by feature set.
        readouts: Linear maps to the labels from the dimensions ``affect`` of the state, with noise
            and thresholds.
        affect: Slice of the state's dimensions on which the labels depend.
    """

    time_constants: Float64[np.ndarray, " K"]
    cameras: dict[str, Camera]
    readouts: Readouts
    affect: slice


def draw_world(rng: np.random.Generator, demo: Demo) -> World:
    """Draw the random constants of a synthetic dataset: weights of the labels and of the features.

    The biases of the expressions and the thresholds of the action units are 0 until they are
    fitted.
    """
    sizes = [len(block) for block in demo.affect_seconds]
    nuisances = [*demo.nuisance_seconds, *[np.inf] * demo.offsets]
    seconds = [s for block in demo.affect_seconds for s in block] + nuisances * len(demo.views)
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
    """Draw the observation model of one feature set: weights of the latent state, mean and scale.

    The latent state consists of affect (on which all labels depend) and nuisances.

    Args:
        rng: Source of the random draws.
        demo: Sizes and strengths of affect and nuisances.
        view: Number of features of the set and strength of affect in them.
        sizes: Number of dimensions in each block of affect.
        number: Position of the set among all sets.
    """
    affect = sum(sizes)
    nuisances = len(demo.nuisance_seconds) + demo.offsets
    affect_loadings = rng.standard_normal((view.width, affect)) * np.repeat(view.gains, sizes)
    mixed = affect_loadings @ rng.standard_normal((affect, nuisances))
    strength = [demo.nuisance] * len(demo.nuisance_seconds) + [demo.offset] * demo.offsets
    loadings = np.zeros((view.width, affect + nuisances * len(demo.views)))
    loadings[:, :affect] = demo.signal * affect_loadings
    start = affect + nuisances * number
    loadings[:, start : start + nuisances] = mixed / mixed.std(axis=0) * strength
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
    """Draw random unit vectors, each the weights of one label, of shape (count, S).

    S is the number of dimensions of the latent time series on which the labels depend.

    Args:
        rng: Source of the random draws.
        count: Number of vectors.
        blocks: Factor on each block of dimensions, applied before the vectors are normalised.
        sizes: Number of dimensions in each block.
    """
    vectors = rng.standard_normal((count, sum(sizes))) * np.repeat(blocks, sizes)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
