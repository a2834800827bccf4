"""Rendering of face pictures: parts of the face in layers, then light, then sensor noise."""

import numpy as np
from jaxtyping import Float32, UInt8

from mtl.synthetic.faces import lower, upper
from mtl.synthetic.faces.face_coordinates import FaceCoordinates, column, to_face_coordinates
from mtl.synthetic.faces.scene import Light, Scene
from mtl.synthetic.faces.shapes import Plane, bump, cover, ellipse, rounded_intersection

BATCH_PIXELS = 32_768
"""Number of pixels drawn at once, so that the arrays fit in a core's cache."""

WHITE, TEETH = (0.93, 0.92, 0.90), (0.95, 0.93, 0.87)
HOLLOW, TONGUE, PUPIL = (0.20, 0.06, 0.07), (0.62, 0.28, 0.28), (0.03, 0.03, 0.03)


def draw_faces(
    intensities: Float32[np.ndarray, "T 12"], scene: Scene, size: int = 64
) -> UInt8[np.ndarray, "T {size} {size} 3"]:
    """Return RGB pictures of T frames; each picture is independent of the other frames.

    Args:
        intensities: Action unit intensities, 0 to 1, in the order of ``ACTION_UNITS``.
        scene: People, light, head pose and noise of the same frames.
        size: Side of the pictures, in pixels.
    """
    pictures = np.empty((len(scene), size, size, 3), np.uint8)
    batch = max(1, BATCH_PIXELS // size**2)
    for start in range(0, len(scene), batch):
        rows = np.arange(start, min(start + batch, len(scene)))
        batch_scene = scene.take(rows)
        face = to_face_coordinates(intensities[rows], batch_scene, size)
        canvas = _draw(face, batch_scene.light)
        pictures[rows] = _add_noise(canvas.transpose(1, 2, 3, 0), batch_scene)
    return pictures


def _draw(face: FaceCoordinates, light: Light) -> np.ndarray:
    """Draw the pictures of T frames with light and without sensor noise.

    Returns:
        Pixels from 0 to about 1, (3, T, S, S) with pictures of S x S pixels.
    """
    skull, chin = face.proportions["head_height"], lower.jaw_height(face)
    height = np.where(face.down < 0, skull, chin)
    below = (face.down / chin).clip(0, 1)
    width = face.proportions["head_width"] * (1 - face.proportions["jaw"] * below * below)
    head = cover(ellipse(face.across, face.down, width, height), face.pixel)
    neck = cover(rounded_intersection(np.abs(face.across) - 0.36, 0.4 - face.down, 0.1), face.pixel)
    slope, nose_dark = lower.nose(face)

    canvas = np.empty((3, *face.x.shape), np.float32)
    canvas[:] = face.colours["skin"].T[:, :, None, None]
    _paint_features(canvas, face, nose_dark)
    _paint(canvas, _fringe(face), face.colours["hair"])
    shade = _shade(face, light, width, height, slope)
    behind = np.empty_like(canvas)
    behind[:] = _backdrop(face, light)
    _paint(behind, _hair(face), face.colours["hair"] * 0.75)
    _paint(behind, neck, face.colours["skin"] * 0.62)
    canvas *= shade
    behind += head * (canvas - behind)
    behind *= light.colour.T[:, :, None, None]
    return behind


def _paint_features(canvas: np.ndarray, face: FaceCoordinates, nose_dark: Plane) -> None:
    """Paint eyes, brows, mouth, creases and cheeks onto a canvas of plain skin, in place.

    Args:
        canvas: RGB pixels of T pictures, (3, T, S, S) with S x S pixels each.
        face: Pixel positions and parameters of the face.
        nose_dark: Darkness of nostrils and folds of the nose.
    """
    x, y = face.eyes
    socket = 0.16 * bump(x, y + 0.03, 0.24, 0.17)
    mouth = lower.mouth(face)
    _paint(canvas, mouth.lips, face.colours["lips"])
    dark = upper.forehead_creases(face) + upper.eye_creases(face) + nose_dark + mouth.dark
    canvas *= (1 + lower.cheeks(face) - socket) * (1 - (0.38 * dark).clip(0, 0.8))
    _paint(canvas, mouth.opening, HOLLOW)
    _paint(canvas, mouth.tongue, TONGUE)
    _paint(canvas, mouth.teeth, TEETH)
    eye = upper.eyes(face)
    iris, pupil, glint = upper.irises(face)
    _paint(canvas, eye, WHITE)
    _paint(canvas, eye * iris, face.colours["iris"])
    _paint(canvas, eye * pupil, PUPIL)
    _paint(canvas, eye * glint, (1.0, 1.0, 1.0))
    _paint(canvas, 0.9 * upper.brows(face), face.colours["hair"] * 0.7)


def _hair(face: FaceCoordinates) -> Plane:
    """Return the fraction of each pixel covered by the hair behind the head.

    The hair is a cap around the head, with sides down to ``hair_length``.
    """
    lengths = face.proportions
    volume = lengths["hair_volume"]
    width, height = lengths["head_width"] + volume, lengths["head_height"] + volume
    cap = ellipse(face.across, face.down + 0.08, width, height)
    sides = np.maximum(np.abs(face.across) - width, -0.08 - face.down)
    hair = rounded_intersection(np.minimum(cap, sides), face.down - lengths["hair_length"], 0.3)
    return cover(hair, face.pixel)


def _fringe(face: FaceCoordinates) -> Plane:
    """Return the fraction of each pixel covered by hair on the forehead, lower at the temples."""
    x = face.across / face.proportions["head_width"]
    temples = x * x * x * x
    return cover(face.down + face.proportions["hairline"] - 0.42 * temples, 1.5 * face.pixel)


def _shade(face: FaceCoordinates, light: Light, width: Plane, height: Plane, slope: Plane) -> Plane:
    """Return the brightness factor of the light on an egg-shaped head with a nose.

    The factor is ambient light plus Lambertian shading by the lamp: the cosine between the surface
    normal and the lamp's direction. ``width`` and ``height`` are the half axes of the head,
    ``slope`` is the horizontal slope of the nose.
    """
    p, q = 0.9 * face.across / width, 0.85 * face.down / height
    ahead = np.sqrt((1 - p * p - q * q).clip(0.04))
    right, down, near = (column(light.direction[:, k]) for k in range(3))
    lamp = ((p + 0.9 * slope) * right + q * down + ahead * near).clip(0)
    strength = column(light.strength)
    return np.asarray((1 - strength) + 1.25 * strength * lamp)


def _backdrop(face: FaceCoordinates, light: Light) -> np.ndarray:
    """Return the background of T frames: a linear colour gradient, independent of the head's pose.

    The shape is (3, T, S, S) with pictures of S x S pixels.
    """
    size = face.x.shape[-1]
    centres = (np.arange(size, dtype=np.float32) + 0.5) / (size / 2) - 1
    along = centres * column(light.slant[:, 0]) + centres[:, None] * column(light.slant[:, 1])
    colour, gradient = (c.T[:, :, None, None] for c in (light.backdrop, light.gradient))
    return np.asarray(colour + gradient * along)


def _paint(
    canvas: np.ndarray, coverage: Plane, colour: np.ndarray | tuple[float, float, float]
) -> None:
    """Blend a colour over T pictures in place.

    Args:
        canvas: RGB pixels of the pictures, (3, T, S, S) with S x S pixels each.
        coverage: Opacity of the colour at each pixel, 0 to 1.
        colour: One RGB colour, or one per picture, (T, 3).
    """
    colours = np.asarray(colour, np.float32)
    for plane, value in zip(canvas, colours.T, strict=True):
        plane += coverage * ((column(value) if value.ndim else value) - plane)


def _add_noise(pictures: np.ndarray, scene: Scene) -> np.ndarray:
    """Add sensor noise, seeded for each frame, to pictures in [0, 1] and round them to 8 bits."""
    grey = np.ascontiguousarray(pictures) * np.float32(255)
    for picture, spread, seed in zip(grey, scene.noise, scene.noise_seed, strict=True):
        rng = np.random.Generator(np.random.SFC64(int(seed)))
        picture += spread * rng.standard_normal(picture.shape, np.float32)
    return (grey + 0.5).clip(0, 255).astype(np.uint8)
