"""Ornstein-Uhlenbeck processes of the synthetic data: sampling and exact posterior.

The K dimensions of the latent state x are independent, each stationary with variance 1: x(t + d) |
x(t) ~ N(r x(t), 1 - r^2) with r = exp(-d / time constant). Both sampling and the posterior are
therefore exact at irregular frame numbers, without steps between them. A dimension with an infinite
time constant is constant over a video. Legend: T frames, K state dimensions, F features.
"""

import numpy as np
from jaxtyping import Float64, Int32


def decay(
    frames: Int32[np.ndarray, " T"], time_constants: Float64[np.ndarray, " K"]
) -> Float64[np.ndarray, "T-1 K"]:
    """Return the correlation of the latent state between consecutive frames of one video.

    The correlation is exp(-d / time constant) for frames at a distance of d frame numbers.

    Args:
        frames: Frame numbers, increasing.
        time_constants: Time constant of each state dimension, in frames.
    """
    gaps = np.diff(frames).astype(np.float64)
    return np.asarray(np.exp(-gaps[:, None] / time_constants))


def sample(
    rng: np.random.Generator,
    frames: Int32[np.ndarray, " T"],
    time_constants: Float64[np.ndarray, " K"],
) -> Float64[np.ndarray, "T K"]:
    """Draw independent Ornstein-Uhlenbeck processes of variance 1 at the frames of one video.

    Args:
        rng: Source of the random draws.
        frames: Frame numbers, increasing.
        time_constants: Time constant of each process, in frames.
    """
    decays = decay(frames, time_constants)
    path = rng.standard_normal((len(frames), len(time_constants)))
    for t, (r, spread) in enumerate(zip(decays, np.sqrt(1 - decays**2), strict=True), start=1):
        path[t] = r * path[t - 1] + spread * path[t]
    return path


def smooth(
    features: Float64[np.ndarray, "T F"],
    loadings: Float64[np.ndarray, "F K"],
    frames: Int32[np.ndarray, " T"],
    time_constants: Float64[np.ndarray, " K"],
) -> tuple[Float64[np.ndarray, "T K"], Float64[np.ndarray, "T K K"]]:
    """Return the exact posterior of the latent state of each frame given all features of a video.

    The features are ``loadings @ state`` plus white noise of variance 1. The method is the Kalman
    filter in information form (the features enter as ``loadings.T @ features``, so the cost hardly
    depends on their number), then the smoother of Rauch, Tung & Striebel (1965).

    Args:
        features: Features of one video, whitened: without mean, noise variance 1.
        loadings: Weight of each state dimension in each feature.
        frames: Frame numbers, increasing.
        time_constants: Time constant of each state dimension, in frames; infinite for a dimension
            that is constant over the video.

    Returns:
        Posterior mean of the state of each frame, and its posterior covariance.
    """
    decays = decay(frames, time_constants)
    means, covariances = _filter(features @ loadings, loadings.T @ loadings, decays)
    for t in range(len(frames) - 2, -1, -1):
        r = decays[t]
        predicted = _predicted_covariance(covariances[t], r)
        gain = np.linalg.solve(predicted, r[:, None] * covariances[t]).T
        means[t] += gain @ (means[t + 1] - r * means[t])
        covariances[t] += gain @ (covariances[t + 1] - predicted) @ gain.T
    return means, covariances


def _filter(
    evidence: np.ndarray, information: np.ndarray, decays: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Run a Kalman filter: posterior of each frame's latent state given features up to this frame.

    Legend: T frames, K state dimensions, F features.

    Args:
        evidence: Features (T, F) times ``loadings`` (F, K), the weights of the state: (T, K).
        information: ``loadings.T @ loadings``, (K, K).
        decays: Correlation of the state between consecutive frames, (T - 1, K).

    Returns:
        Posterior means (T, K) and posterior covariances (T, K, K).
    """
    frames, states = evidence.shape
    means, covariances = np.zeros((frames, states)), np.zeros((frames, states, states))
    mean, covariance = np.zeros(states), np.eye(states)
    for t in range(frames):
        if t:
            mean = decays[t - 1] * mean
            covariance = _predicted_covariance(covariance, decays[t - 1])
        covariance = np.linalg.inv(np.linalg.inv(covariance) + information)
        mean = mean + covariance @ (evidence[t] - information @ mean)
        means[t], covariances[t] = mean, covariance
    return means, covariances


def _predicted_covariance(covariance: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Predict the covariance of the latent state one frame ahead.

    Args:
        covariance: Covariance of the state at the current frame, (K, K).
        r: Correlation of each of K state dimensions between the two frames, (K,).
    """
    return np.asarray(covariance * np.outer(r, r) + np.diag(1 - r**2))
