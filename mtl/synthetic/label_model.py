"""Label model: labels drawn from the hidden path, and their best predictions from its posterior.

A readout is the mapping from the hidden path to one label. Valence and arousal are linear readouts
with annotation noise; the expression is drawn from the softmax of eight linear readouts; an action
unit is on where its readout plus noise exceeds a threshold. Biases and thresholds are set on the
labelled training frames, so that these have the challenge's class frequencies.
Legend: N frames, S affect dimensions.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from mtl.tasks import EXPRESSION, LABEL_COLUMNS, OUTPUT_COLUMNS, UNITS

EXPRESSION_COUNTS = (23976, 4555, 3168, 3122, 18135, 7609, 5228, 24852)
"""Frames of each expression in the challenge's training set."""

EXPRESSION_SHARES = np.array(EXPRESSION_COUNTS) / sum(EXPRESSION_COUNTS)
"""Fraction of labelled training frames with each expression."""

UNIT_COUNTS = (18713, 8745, 20342, 30605, 41337, 38286, 26783, 2460, 2980, 5003, 70584, 10756)
"""Frames with each action unit active in the challenge's training set."""

UNIT_SHARES = np.array(UNIT_COUNTS) / 103316
"""Fraction of labelled training frames with each action unit active."""

POSTERIOR_DRAWS = 256
"""Number of posterior samples over which the expression's softmax is averaged."""


@dataclass(frozen=True)
class Readouts:
    """Weights that map the affect path to each label; valence, arousal and units have variance 1.

    Attributes:
        affect: Weights of valence and arousal.
        affect_mean, affect_spread, affect_noise: Mean, standard deviation and standard deviation
            of the annotation noise of valence and arousal, in label units.
        expression: Weights of the class scores, multiplied by their sharpness: the scores'
            standard deviation, where the added noise is standard Gumbel.
        expression_bias: Bias added to each noisy class score before the argmax.
        units: Weights of the action units.
        unit_threshold: Threshold above which a noisy unit score makes the unit active.
        unit_noise: Standard deviation of the noise added to each unit's readout of variance 1.
    """

    affect: Float64[np.ndarray, "2 S"]
    affect_mean: Float64[np.ndarray, " 2"]
    affect_spread: Float64[np.ndarray, " 2"]
    affect_noise: Float64[np.ndarray, " 2"]
    expression: Float64[np.ndarray, "8 S"]
    expression_bias: Float64[np.ndarray, " 8"]
    units: Float64[np.ndarray, "12 S"]
    unit_threshold: Float64[np.ndarray, " 12"]
    unit_noise: float


@dataclass(frozen=True)
class Noise:
    """Label noise of N frames: standard normal draws, for the expression standard Gumbel draws."""

    affect: Float64[np.ndarray, "N 2"]
    expression: Float64[np.ndarray, "N 8"]
    units: Float64[np.ndarray, "N 12"]

    @classmethod
    def draw(cls, rng: np.random.Generator, frames: int) -> "Noise":
        """Draw the noise of ``frames`` frames."""
        return cls(
            affect=rng.standard_normal((frames, 2)),
            expression=rng.gumbel(size=(frames, EXPRESSION.width)),
            units=rng.standard_normal((frames, UNITS.width)),
        )


def fit_expression_bias(scores: Float64[np.ndarray, "N 8"]) -> Float64[np.ndarray, " 8"]:
    """Return biases for which the argmax of the noisy scores has the challenge's frequencies."""
    bias = np.log(EXPRESSION_SHARES)
    for step in range(400):
        counts = np.bincount(np.argmax(scores + bias, axis=1), minlength=len(bias)) + 0.5
        bias = bias + np.log(EXPRESSION_SHARES / (counts / counts.sum())) / (1 + 0.05 * step)
    return np.asarray(bias)


def fit_unit_threshold(scores: Float64[np.ndarray, "N 12"]) -> Float64[np.ndarray, " 12"]:
    """Return thresholds that noisy scores exceed at the challenge's rates of active units."""
    return np.array(
        [np.quantile(s, 1 - share) for s, share in zip(scores.T, UNIT_SHARES, strict=True)]
    )


def expression_scores(
    readouts: Readouts, affect: Float64[np.ndarray, "N S"], noise: Noise
) -> Float64[np.ndarray, "N 8"]:
    """Return the expression's noisy class scores, without the bias."""
    return np.asarray(affect @ readouts.expression.T + noise.expression)


def unit_scores(
    readouts: Readouts, affect: Float64[np.ndarray, "N S"], noise: Noise
) -> Float64[np.ndarray, "N 12"]:
    """Return the action units' noisy scores, which a threshold turns into labels."""
    return np.asarray(affect @ readouts.units.T + readouts.unit_noise * noise.units)


def draw_labels(
    readouts: Readouts, affect: Float64[np.ndarray, "N S"], noise: Noise
) -> Float32[np.ndarray, "N 15"]:
    """Return all 15 labels of every frame; valence and arousal are clipped to [-1, 1]."""
    labels = np.zeros((len(affect), len(LABEL_COLUMNS)), dtype=np.float32)
    value = readouts.affect_mean + readouts.affect_spread * (affect @ readouts.affect.T)
    labels[:, :2] = np.clip(value + readouts.affect_noise * noise.affect, -1, 1)
    scores = expression_scores(readouts, affect, noise) + readouts.expression_bias
    labels[:, EXPRESSION.labels] = np.argmax(scores, axis=1)[:, None]
    labels[:, UNITS.labels] = unit_scores(readouts, affect, noise) > readouts.unit_threshold
    return labels


def predict(
    readouts: Readouts,
    means: Float64[np.ndarray, "N S"],
    covariances: Float64[np.ndarray, "N S S"],
    seed: int = 0,
) -> Float32[np.ndarray, "N 22"]:
    """Return posterior means of valence and arousal, and probabilities of classes and units.

    Args:
        readouts: Distribution of the labels given the affect path.
        means: Posterior mean of the affect path.
        covariances: Posterior covariance of the affect path.
        seed: Seed of the posterior samples over which the expression's softmax is averaged.
    """
    outputs = np.zeros((len(means), len(OUTPUT_COLUMNS)), dtype=np.float32)
    value = readouts.affect_mean + readouts.affect_spread * (means @ readouts.affect.T)
    outputs[:, :2] = np.clip(value, -1, 1)
    outputs[:, EXPRESSION.outputs] = _class_probability(readouts, means, covariances, seed)
    variance = np.einsum("ks,nst,kt->nk", readouts.units, covariances, readouts.units)
    margin = means @ readouts.units.T - readouts.unit_threshold
    outputs[:, UNITS.outputs] = _normal_cdf(margin / np.sqrt(variance + readouts.unit_noise**2))
    return outputs


def _class_probability(
    readouts: Readouts, means: np.ndarray, covariances: np.ndarray, seed: int
) -> np.ndarray:
    """Return the softmax averaged over antithetic posterior samples, shape (N, 8)."""
    rng = np.random.default_rng(seed)
    scores = means @ readouts.expression.T + readouts.expression_bias
    spread = readouts.expression @ np.linalg.cholesky(covariances)
    total = np.zeros_like(scores)
    for _ in range(POSTERIOR_DRAWS // 2):
        shift = spread @ rng.standard_normal(spread.shape[-1])
        total += _softmax(scores + shift) + _softmax(scores - shift)
    return np.asarray(total / total.sum(axis=1, keepdims=True))


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _normal_cdf(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))
