"""Label model of synthetic data: drawing labels, and predicting them as well as possible.

All labels depend on the latent affect, a time series of S dimensions. A readout is a linear map
from the latent affect to one label. Valence and arousal are readouts plus annotation noise. The
expression is drawn from the softmax of eight readouts. An action unit is active where its readout
plus noise exceeds a threshold. Biases and thresholds are fitted to the labelled training frames, so
that the classes are as frequent there as in the challenge (s-Aff-Wild2). Legend: N frames, S
dimensions of the latent affect.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from mtl.tasks import EXPRESSION, LABEL_COLUMNS, OUTPUT_COLUMNS, UNITS

EXPRESSION_COUNTS = (23976, 4555, 3168, 3122, 18135, 7609, 5228, 24852)
"""Number of frames with each expression in the challenge's training set."""

EXPRESSION_SHARES = np.array(EXPRESSION_COUNTS) / sum(EXPRESSION_COUNTS)
"""Fraction of labelled training frames with each expression."""

UNIT_COUNTS = (18713, 8745, 20342, 30605, 41337, 38286, 26783, 2460, 2980, 5003, 70584, 10756)
"""Number of frames with each action unit active in the challenge's training set."""

UNIT_SHARES = np.array(UNIT_COUNTS) / 103316
"""Fraction of labelled training frames with each action unit active."""

POSTERIOR_DRAWS = 256
"""Number of posterior samples over which the softmax of the expression is averaged."""


@dataclass(frozen=True)
class Readouts:
    """Linear maps (readouts) from the latent affect, a time series of S dimensions, to the labels.

    The readouts of valence, arousal and action units have variance 1.

    Attributes:
        affect: Weight of each dimension of the latent affect in valence and in arousal.
        affect_mean: Mean of valence and arousal, in label units.
        affect_spread: Factors that convert the readouts of valence and arousal to label units,
            which are the standard deviations of these labels without noise.
        affect_noise: Standard deviation of the annotation noise of valence and arousal, in label
            units.
        expression: Weight of each dimension in the scores of the eight expressions. Standard
            Gumbel noise is added to the scores, so the larger the scores' standard deviation, the
            less random is the class.
        expression_bias: Bias added to each noisy class score before the argmax.
        units: Weight of each dimension in the scores of the twelve action units.
        unit_threshold: Threshold above which a noisy unit score makes the unit active.
        unit_noise: Standard deviation of the noise added to the readout of each action unit.
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
    """Random draws for the label noise of N frames, not yet scaled.

    Attributes:
        affect: Standard normal draws for valence and arousal.
        expression: Standard Gumbel draws for the eight class scores.
        units: Standard normal draws for the action units.
    """

    affect: Float64[np.ndarray, "N 2"]
    expression: Float64[np.ndarray, "N 8"]
    units: Float64[np.ndarray, "N 12"]

    @classmethod
    def draw(cls, rng: np.random.Generator, frames: int) -> "Noise":
        """Draw the label noise of ``frames`` frames with the random generator ``rng``."""
        return cls(
            affect=rng.standard_normal((frames, 2)),
            expression=rng.gumbel(size=(frames, EXPRESSION.width)),
            units=rng.standard_normal((frames, UNITS.width)),
        )


def fit_expression_bias(scores: Float64[np.ndarray, "N 8"]) -> Float64[np.ndarray, " 8"]:
    """Return the class biases that make the expressions as frequent as in the challenge.

    Args:
        scores: Noisy score of each of the 8 expressions, by frame. The expression of a frame is the
            argmax of score plus bias.
    """
    bias = np.log(EXPRESSION_SHARES)
    for step in range(400):
        counts = np.bincount(np.argmax(scores + bias, axis=1), minlength=len(bias)) + 0.5
        bias = bias + np.log(EXPRESSION_SHARES / (counts / counts.sum())) / (1 + 0.05 * step)
    return np.asarray(bias)


def fit_unit_threshold(scores: Float64[np.ndarray, "N 12"]) -> Float64[np.ndarray, " 12"]:
    """Return the thresholds that make the action units active as often as in the challenge.

    Args:
        scores: Noisy score of each of the 12 action units, by frame. A unit is active where its
            score exceeds its threshold.
    """
    return np.array(
        [np.quantile(s, 1 - share) for s, share in zip(scores.T, UNIT_SHARES, strict=True)]
    )


def expression_scores(
    readouts: Readouts, affect: Float64[np.ndarray, "N S"], noise: Noise
) -> Float64[np.ndarray, "N 8"]:
    """Return noisy scores of the 8 expressions: linear maps of the latent affect plus noise.

    The class bias is not yet added.

    Args:
        readouts: Weights of the linear maps.
        affect: Latent affect of each frame, a time series on which all labels depend.
        noise: Label noise of the same frames.
    """
    return np.asarray(affect @ readouts.expression.T + noise.expression)


def unit_scores(
    readouts: Readouts, affect: Float64[np.ndarray, "N S"], noise: Noise
) -> Float64[np.ndarray, "N 12"]:
    """Return noisy scores of the 12 action units: linear maps of the latent affect plus noise.

    A unit is active where its score exceeds its threshold.

    Args:
        readouts: Weights of the linear maps and scale of the noise.
        affect: Latent affect of each frame, a time series on which all labels depend.
        noise: Label noise of the same frames.
    """
    return np.asarray(affect @ readouts.units.T + readouts.unit_noise * noise.units)


def draw_labels(
    readouts: Readouts, affect: Float64[np.ndarray, "N S"], noise: Noise
) -> Float32[np.ndarray, "N 15"]:
    """Compute the 15 labels of every frame from the latent affect and the label noise.

    Args:
        readouts: Linear maps from the latent affect to the labels, with biases and thresholds.
        affect: Latent affect of each frame, a time series on which all labels depend.
        noise: Label noise of the same frames.

    Returns:
        Valence and arousal, clipped to [-1, 1], the number of the expression, and 0 or 1 for each
        of 12 action units.
    """
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
    """Predict the labels from a Gaussian posterior of the latent affect.

    The latent affect is a time series on which all labels depend.

    Args:
        readouts: Linear maps from the latent affect to the labels, with noise and thresholds.
        means: Posterior mean of the latent affect of each frame.
        covariances: Posterior covariance of the latent affect of each frame.
        seed: Seed of the posterior samples over which the expression's softmax is averaged.

    Returns:
        For each of the N frames the posterior mean of valence and arousal, the probabilities of 8
        expressions, and the probability that each of 12 action units is active.
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
    """Return the probability of each of 8 expressions in each frame, (frames, 8).

    The probability is the softmax of the class scores, averaged over antithetic samples from the
    Gaussian posterior of the latent time series on which the labels depend.
    """
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
