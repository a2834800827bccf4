"""A batch of people in front of the camera: each pixel in the face's own coordinates."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from mtl.synthetic.faces.scene import Scene
from mtl.synthetic.faces.shapes import Plane
from mtl.tasks import ACTION_UNITS

RADIUS = 1.0  # of the cylinder on which the features turn with yaw
# Aligned crops are tight: from the forehead to the chin, between brows and mouth in the middle.
CROP = 1.35
MIDDLE = np.float32(0.08)


@dataclass(frozen=True)
class FaceCoordinates:
    """What the parts of a face are drawn from, for T frames of S x S pixels.

    Attributes:
        across, down: A pixel's place beside the head's centre, its tilt and size undone.
        x, side: Place across on the turned face, as a distance from its middle line and a sign, so
            that what is drawn once appears on both sides.
        pixel: Side of a pixel.
        own: The person's proportions, (T, 1, 1) each.
        colours: The person's colours, (T, 3).
        units: Intensity of each action unit, (T, 1, 1) each.
        yaw: Sine of the turn, (T, 1, 1).
        gaze: Right and down.
    """

    across: Plane
    down: Plane
    x: Plane
    side: Plane
    pixel: Plane
    own: Mapping[str, Plane]
    colours: Mapping[str, np.ndarray]
    units: Mapping[str, Plane]
    yaw: Plane
    gaze: tuple[Plane, Plane]

    @property
    def eyes(self) -> tuple[Plane, Plane]:
        """A pixel's place beside the eye on its side."""
        return self.x - self.own["eye_distance"], self.down + 0.16


def seat(intensities: np.ndarray, scene: Scene, size: int) -> FaceCoordinates:
    """Place T people before a camera of ``size`` pixels."""
    pose = scene.pose
    centres = (np.arange(size, dtype=np.float32) + 0.5) / (size / 2) - 1
    u, v = centres - column(pose.right), centres[:, None] - column(pose.down)
    # One number at a time: in a vector, a sine may depend on where the number stands.
    zoom = column(CROP * pose.zoom)
    cos, sin = (column(_each(f, pose.rotation)) / zoom for f in (np.cos, np.sin))
    across, down = u * cos + v * sin, v * cos - u * sin + MIDDLE
    turn, ahead = column(_each(np.sin, pose.yaw)), column(_each(np.cos, pose.yaw))
    depth = np.sqrt((RADIUS - across * across).clip(0))
    x = across * ahead - depth * turn
    own = {f.name: getattr(scene.identity, f.name) for f in fields(scene.identity)}
    return FaceCoordinates(
        across=across,
        down=down,
        x=np.abs(x),
        side=np.where(x < 0, np.float32(-1), np.float32(1)),
        pixel=np.float32(2 / size) / zoom,
        own={name: column(value) for name, value in own.items() if value.ndim == 1},
        colours={name: value for name, value in own.items() if value.ndim == 2},
        units={name: column(intensities[:, k]) for k, name in enumerate(ACTION_UNITS)},
        yaw=turn,
        gaze=(column(pose.gaze_right), column(pose.gaze_down)),
    )


def column(values: np.ndarray) -> Plane:
    """One number a frame, to be broadcast over its pixels."""
    return values.astype(np.float32)[:, None, None]


def _each(function: np.ufunc, values: np.ndarray) -> np.ndarray:
    return np.array([function(float(value)) for value in values], np.float32)
