"""Draw faces: parts over one another, then light, then the sensor's noise."""

import numpy as np
from jaxtyping import Float32, UInt8

from mtl.synthetic.faces import lower, upper
from mtl.synthetic.faces.face_coordinates import FaceCoordinates, column, seat
from mtl.synthetic.faces.scene import Light, Scene
from mtl.synthetic.faces.shapes import Plane, both, bump, cover, ellipse

BATCH_PIXELS = 32_768  # what stays in a core's cache
WHITE, TEETH = (0.93, 0.92, 0.90), (0.95, 0.93, 0.87)
HOLLOW, TONGUE, PUPIL = (0.20, 0.06, 0.07), (0.62, 0.28, 0.28), (0.03, 0.03, 0.03)


def draw_faces(
    intensities: Float32[np.ndarray, "T 12"], scene: Scene, size: int = 64
) -> UInt8[np.ndarray, "T {size} {size} 3"]:
    """RGB pictures of T frames; a frame's does not depend on the others.

    Args:
        intensities: Of the action units in the order of ``ACTION_UNITS``, 0 to 1.
        scene: Of the same frames.
        size: Side in pixels.
    """
    pictures = np.empty((len(scene), size, size, 3), np.uint8)
    batch = max(1, BATCH_PIXELS // size**2)
    for start in range(0, len(scene), batch):
        rows = np.arange(start, min(start + batch, len(scene)))
        own = scene.take(rows)
        canvas = _draw(seat(intensities[rows], own, size), own.light)
        pictures[rows] = _expose(canvas.transpose(1, 2, 3, 0), own)
    return pictures


def _draw(s: FaceCoordinates, light: Light) -> np.ndarray:
    """The lit picture, (3, T, S, S), from 0 to about 1."""
    skull, chin = s.own["head_height"], lower.jaw_height(s)
    height = np.where(s.down < 0, skull, chin)
    below = (s.down / chin).clip(0, 1)
    width = s.own["head_width"] * (1 - s.own["jaw"] * below * below)
    head = cover(ellipse(s.across, s.down, width, height), s.pixel)
    neck = cover(both(np.abs(s.across) - 0.36, 0.4 - s.down, 0.1), s.pixel)
    slope, nose_dark = lower.nose(s)

    canvas = np.empty((3, *s.x.shape), np.float32)
    canvas[:] = s.colours["skin"].T[:, :, None, None]
    _paint_features(canvas, s, nose_dark)
    _paint(canvas, _fringe(s), s.colours["hair"])
    shade = _shade(s, light, width, height, slope)
    behind = np.empty_like(canvas)
    behind[:] = _backdrop(s, light)
    _paint(behind, _hair(s), s.colours["hair"] * 0.75)
    _paint(behind, neck, s.colours["skin"] * 0.62)
    canvas *= shade
    behind += head * (canvas - behind)
    behind *= light.colour.T[:, :, None, None]
    return behind


def _paint_features(canvas: np.ndarray, s: FaceCoordinates, nose_dark: Plane) -> None:
    """Onto bare skin."""
    x, y = s.eyes
    socket = 0.16 * bump(x, y + 0.03, 0.24, 0.17)
    mouth = lower.mouth(s)
    _paint(canvas, mouth.lips, s.colours["lips"])
    dark = upper.forehead_creases(s) + upper.eye_creases(s) + nose_dark + mouth.dark
    canvas *= (1 + lower.cheeks(s) - socket) * (1 - (0.38 * dark).clip(0, 0.8))
    _paint(canvas, mouth.opening, HOLLOW)
    _paint(canvas, mouth.tongue, TONGUE)
    _paint(canvas, mouth.teeth, TEETH)
    eye = upper.eyes(s)
    iris, pupil, glint = upper.irises(s)
    _paint(canvas, eye, WHITE)
    _paint(canvas, eye * iris, s.colours["iris"])
    _paint(canvas, eye * pupil, PUPIL)
    _paint(canvas, eye * glint, (1.0, 1.0, 1.0))
    _paint(canvas, 0.9 * upper.brows(s), s.colours["hair"] * 0.7)


def _hair(s: FaceCoordinates) -> Plane:
    """What stands out behind the head: a cap, hanging down as far as it is long."""
    volume = s.own["hair_volume"]
    width, height = s.own["head_width"] + volume, s.own["head_height"] + volume
    cap = ellipse(s.across, s.down + 0.08, width, height)
    sides = np.maximum(np.abs(s.across) - width, -0.08 - s.down)
    return cover(both(np.minimum(cap, sides), s.down - s.own["hair_length"], 0.3), s.pixel)


def _fringe(s: FaceCoordinates) -> Plane:
    """Hair on the forehead, down to a line that falls at the temples."""
    x = s.across / s.own["head_width"]
    temples = x * x * x * x
    return cover(s.down + s.own["hairline"] - 0.42 * temples, 1.5 * s.pixel)


def _shade(s: FaceCoordinates, light: Light, width: Plane, height: Plane, slope: Plane) -> Plane:
    """Light on an egg with a nose: ambient, and the lamp's by the cosine to the normal."""
    p, q = 0.9 * s.across / width, 0.85 * s.down / height
    ahead = np.sqrt((1 - p * p - q * q).clip(0.04))
    right, down, near = (column(light.direction[:, k]) for k in range(3))
    lamp = ((p + 0.9 * slope) * right + q * down + ahead * near).clip(0)
    strength = column(light.strength)
    return np.asarray((1 - strength) + 1.25 * strength * lamp)


def _backdrop(s: FaceCoordinates, light: Light) -> np.ndarray:
    """A gradient over the picture, (3, T, S, S); it stays when the head moves."""
    size = s.x.shape[-1]
    centres = (np.arange(size, dtype=np.float32) + 0.5) / (size / 2) - 1
    along = centres * column(light.slant[:, 0]) + centres[:, None] * column(light.slant[:, 1])
    colour, gradient = (c.T[:, :, None, None] for c in (light.backdrop, light.gradient))
    return np.asarray(colour + gradient * along)


def _paint(
    canvas: np.ndarray, coverage: Plane, colour: np.ndarray | tuple[float, float, float]
) -> None:
    """Blend a colour, or one a frame (T, 3), over the canvas (3, T, S, S)."""
    colours = np.asarray(colour, np.float32)
    for plane, own in zip(canvas, colours.T, strict=True):
        plane += coverage * ((column(own) if own.ndim else own) - plane)


def _expose(linear: np.ndarray, scene: Scene) -> np.ndarray:
    """Add each frame's own noise and round to 8 bits."""
    grey = np.ascontiguousarray(linear) * np.float32(255)
    for picture, spread, seed in zip(grey, scene.noise, scene.noise_seed, strict=True):
        rng = np.random.Generator(np.random.SFC64(int(seed)))
        picture += spread * rng.standard_normal(picture.shape, np.float32)
    return (grey + 0.5).clip(0, 255).astype(np.uint8)
