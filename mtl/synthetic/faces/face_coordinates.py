"""Coordinates of each pixel relative to the head, and the parameters with which a face is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from mtl.synthetic.faces.scene import Scene
from mtl.synthetic.faces.shapes import Plane
from mtl.tasks import ACTION_UNITS

RADIUS = 1.0
"""Radius of the vertical cylinder that models the face's surface when the head turns (yaw)."""

# Aligned crops are tight: they reach from the forehead to the chin.
CROP = 1.35
"""Magnification of the face, so that the picture is a tight crop."""

MIDDLE = np.float32(0.08)
"""Vertical face coordinate at the centre of the picture, a point between brows and mouth."""


@dataclass(frozen=True)
class FaceCoordinates:
    """Pixel positions relative to the head, and face parameters, for T frames of S x S pixels.

    Attributes:
        across, down: Horizontal and vertical position of a pixel relative to the head's centre,
            after the head's rotation and size are removed.
        x: Horizontal distance of a pixel from the face's midline, after yaw is removed. It is
            never negative, so that one shape drawn in ``x`` appears on both halves of the face.
        side: Half of the face to which a pixel belongs: -1 left, 1 right in the picture.
        pixel: Side length of a pixel.
        proportions: The person's proportions by name, (T, 1, 1) each.
        colours: The person's colours by name, (T, 3) each.
        units: Intensity of each action unit by name, (T, 1, 1) each.
        yaw: Sine of the yaw angle, (T, 1, 1).
        gaze: Shift of the irises to the right and downwards, (T, 1, 1) each.
    """

    across: Plane
    down: Plane
    x: Plane
    side: Plane
    pixel: Plane
    proportions: Mapping[str, Plane]
    colours: Mapping[str, np.ndarray]
    units: Mapping[str, Plane]
    yaw: Plane
    gaze: tuple[Plane, Plane]

    @property
    def eyes(self) -> tuple[Plane, Plane]:
        """Position of each pixel relative to the centre of the nearer eye: outwards, down."""
        return self.x - self.proportions["eye_distance"], self.down + 0.16


def to_face_coordinates(intensities: np.ndarray, scene: Scene, size: int) -> FaceCoordinates:
    """Compute the pixels' positions relative to the head of each of T frames.

    The result also holds what is drawn there: the people's proportions and the intensities of the
    action units.

    Args:
        intensities: Intensity of each action unit, (T, 12), in the order of ``ACTION_UNITS``.
        scene: People, light, head pose and noise of the same frames.
        size: Side of the pictures, in pixels.
    """
    pose = scene.pose
    centres = (np.arange(size, dtype=np.float32) + 0.5) / (size / 2) - 1
    u, v = centres - column(pose.right), centres[:, None] - column(pose.down)
    # A vectorised sine may depend on an element's position in the array, so each angle is computed
    # separately.
    zoom = column(CROP * pose.zoom)
    cos, sin = (column(_each(f, pose.rotation)) / zoom for f in (np.cos, np.sin))
    across, down = u * cos + v * sin, v * cos - u * sin + MIDDLE
    turn, ahead = column(_each(np.sin, pose.yaw)), column(_each(np.cos, pose.yaw))
    depth = np.sqrt((RADIUS - across * across).clip(0))
    x = across * ahead - depth * turn
    identity = {f.name: getattr(scene.identity, f.name) for f in fields(scene.identity)}
    return FaceCoordinates(
        across=across,
        down=down,
        x=np.abs(x),
        side=np.where(x < 0, np.float32(-1), np.float32(1)),
        pixel=np.float32(2 / size) / zoom,
        proportions={name: column(value) for name, value in identity.items() if value.ndim == 1},
        colours={name: value for name, value in identity.items() if value.ndim == 2},
        units={name: column(intensities[:, k]) for k, name in enumerate(ACTION_UNITS)},
        yaw=turn,
        gaze=(column(pose.gaze_right), column(pose.gaze_down)),
    )


def column(values: np.ndarray) -> Plane:
    """Reshape one number per frame, (T,), to (T, 1, 1) for broadcasting over pixels."""
    return values.astype(np.float32)[:, None, None]


def _each(function: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Apply a function to each element separately, so that no result depends on its position."""
    return np.array([function(float(value)) for value in values], np.float32)
