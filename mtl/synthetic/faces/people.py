"""Proportions and colours of synthetic faces.

Legend: T people, or T frames with one person each.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from mtl.synthetic.faces.parameters import Faces

Scalar = Float32[np.ndarray, " T"]
Colour = Float32[np.ndarray, "T 3"]

PROPORTIONS = {
    "head_width": (0.69, 0.05),
    "head_height": (0.91, 0.04),
    "jaw": (0.24, 0.07),
    "hairline": (0.64, 0.045),
    "hair_volume": (0.11, 0.04),
    "hair_length": (0.1, 0.35),
    "brow_height": (0.35, 0.02),
    "brow_thickness": (0.036, 0.009),
    "eye_distance": (0.30, 0.02),
    "eye_width": (0.145, 0.012),
    "eye_opening": (0.068, 0.007),
    "nose_length": (0.21, 0.025),
    "nose_width": (0.115, 0.013),
    "mouth_width": (0.25, 0.02),
    "mouth_height": (0.47, 0.018),
    "lip_thickness": (0.06, 0.009),
}
"""Mean and standard deviation over people of each proportion, relative to the face's centre."""

# Palettes of linear RGB colours, 0 to 1.
SKINS = np.array([[0.97, 0.83, 0.74], [0.90, 0.70, 0.56], [0.74, 0.53, 0.39], [0.48, 0.32, 0.23]])
HAIRS = np.array(
    [[0.08, 0.06, 0.06], [0.26, 0.16, 0.10], [0.50, 0.33, 0.18], [0.78, 0.62, 0.36], [0.6] * 3]
)
IRISES = np.array([[0.25, 0.14, 0.07], [0.30, 0.42, 0.55], [0.30, 0.42, 0.25]])
LIPS = np.array([[0.70, 0.36, 0.34], [0.60, 0.22, 0.24], [0.78, 0.30, 0.36]])


@dataclass(frozen=True)
class Identity:
    """Proportions and colours of T synthetic faces, one array per attribute.

    Proportions are lengths and ratios, (T,); their means and standard deviations over people are in
    ``PROPORTIONS``. Colours are linear RGB from 0 to 1, (T, 3).
    """

    head_width: Scalar
    head_height: Scalar
    jaw: Scalar
    hairline: Scalar
    hair_volume: Scalar
    hair_length: Scalar
    brow_height: Scalar
    brow_thickness: Scalar
    eye_distance: Scalar
    eye_width: Scalar
    eye_opening: Scalar
    nose_length: Scalar
    nose_width: Scalar
    mouth_width: Scalar
    mouth_height: Scalar
    lip_thickness: Scalar
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour


def draw_people(rng: np.random.Generator, count: int, faces: Faces) -> Identity:
    """Draw the proportions and colours of people's faces.

    Args:
        rng: Source of the random draws.
        count: Number of people.
        faces: Parameters of the pictures; ``faces.identity`` scales the differences between people.
    """
    draws = rng.standard_normal((len(PROPORTIONS), count)).clip(-2, 2) * faces.identity
    proportions = {
        name: (mean + spread * z).astype(np.float32)
        for (name, (mean, spread)), z in zip(PROPORTIONS.items(), draws, strict=True)
    }
    skin = _mix(rng, SKINS, count, faces.identity)
    lips = 0.7 * _mix(rng, LIPS, count, faces.identity) + 0.2 * skin * (1.0, 0.6, 0.6)
    return Identity(
        **proportions,
        skin=skin,
        hair=_mix(rng, HAIRS, count, faces.identity),
        iris=_mix(rng, IRISES, count, faces.identity),
        lips=lips.astype(np.float32),
    )


def _mix(rng: np.random.Generator, palette: np.ndarray, count: int, strength: float) -> np.ndarray:
    """Draw random mixtures of the colours of a palette, float32 of shape (count, 3).

    Args:
        rng: Source of the random draws.
        palette: RGB colours, one per row.
        count: Number of mixtures.
        strength: Factor on the distance of each mixture from the palette's mean colour.
    """
    weights = rng.dirichlet(np.full(len(palette), 0.3), count)
    mean = palette.mean(0)
    return np.asarray((mean + strength * (weights @ palette - mean)).clip(0, 1), np.float32)
