"""The hidden path: independent Ornstein-Uhlenbeck processes, and their exact posterior.

Every dimension is stationary with variance 1, x(t + d) | x(t) ~ N(r x(t), 1 - r^2) with
r = exp(-d / time constant), so that a path can be drawn, and conditioned on what was seen, at
irregular frame numbers without a step between them. An infinite time constant is an offset of the
whole video. Legend: T frames, K state dimensions, F features.
"""

import numpy as np
from jaxtyping import Float64, Int32


def decay(
    frames: Int32[np.ndarray, " T"], time_constants: Float64[np.ndarray, " K"]
) -> Float64[np.ndarray, "T-1 K"]:
    """What is left of the state from frame to frame: exp(-d / time constant)."""
    gaps = np.diff(frames).astype(np.float64)
    return np.asarray(np.exp(-gaps[:, None] / time_constants))


def sample(
    rng: np.random.Generator,
    frames: Int32[np.ndarray, " T"],
    time_constants: Float64[np.ndarray, " K"],
) -> Float64[np.ndarray, "T K"]:
    """One path at rising frame numbers; the time constants are in frames."""
    kept = decay(frames, time_constants)
    path = rng.standard_normal((len(frames), len(time_constants)))
    for t, (r, spread) in enumerate(zip(kept, np.sqrt(1 - kept**2), strict=True), start=1):
        path[t] = r * path[t - 1] + spread * path[t]
    return path


def smooth(
    features: Float64[np.ndarray, "T F"],
    loadings: Float64[np.ndarray, "F K"],
    frames: Int32[np.ndarray, " T"],
    time_constants: Float64[np.ndarray, " K"],
) -> tuple[Float64[np.ndarray, "T K"], Float64[np.ndarray, "T K K"]]:
    """Mean and covariance of each frame's state given all features of the video.

    The features are ``loadings @ state`` plus white noise of variance 1. This is the Kalman filter
    in information form (the features enter as ``loadings.T @ features``, so their number does not
    matter) and the smoother of Rauch, Tung & Striebel (1965). It is exact.

    Args:
        features: What was seen.
        loadings: How each feature sees the state.
        frames: Frame numbers, rising.
        time_constants: In frames, infinite for an offset.
    """
    kept = decay(frames, time_constants)
    means, covariances = _filter(features @ loadings, loadings.T @ loadings, kept)
    for t in range(len(frames) - 2, -1, -1):
        r = kept[t]
        forecast = _forecast(covariances[t], r)
        gain = np.linalg.solve(forecast, r[:, None] * covariances[t]).T
        means[t] += gain @ (means[t + 1] - r * means[t])
        covariances[t] += gain @ (covariances[t + 1] - forecast) @ gain.T
    return means, covariances


def _filter(
    evidence: np.ndarray, information: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of each state given the features up to its frame."""
    frames, states = evidence.shape
    means, covariances = np.zeros((frames, states)), np.zeros((frames, states, states))
    mean, covariance = np.zeros(states), np.eye(states)
    for t in range(frames):
        if t:
            mean, covariance = kept[t - 1] * mean, _forecast(covariance, kept[t - 1])
        covariance = np.linalg.inv(np.linalg.inv(covariance) + information)
        mean = mean + covariance @ (evidence[t] - information @ mean)
        means[t], covariances[t] = mean, covariance
    return means, covariances


def _forecast(covariance: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Covariance one step on."""
    return np.asarray(covariance * np.outer(r, r) + np.diag(1 - r**2))
