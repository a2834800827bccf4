"""Drawing of brows, forehead and eyes: action units 1, 2, 4, 6 and 7."""

import numpy as np

from mtl.synthetic.faces.face_coordinates import FaceCoordinates
from mtl.synthetic.faces.shapes import Plane, cover, ellipse, lens, stroke


def brows(face: FaceCoordinates) -> Plane:
    """Return the fraction of each pixel covered by the brows, arcs that become thinner outwards.

    AU1 raises the inner ends, AU2 the outer ends. AU4 lowers the brows and draws them together.
    """
    start, end = _brow_ends(face)
    t = (face.x - start) / (end - start)
    centre = _brow_line(face, t.clip(0, 1))
    thickness = face.proportions["brow_thickness"] * (1.1 - 0.55 * t.clip(0, 1))
    ends = np.maximum(start - face.x, face.x - end)
    return cover(np.maximum(np.abs(face.down - centre) - thickness, ends), face.pixel)


def _brow_ends(face: FaceCoordinates) -> tuple[Plane, Plane]:
    """Return the distances of a brow's inner and outer end from the middle of the face."""
    middle, width = face.proportions["eye_distance"], face.proportions["eye_width"]
    together = face.units["AU4"]
    return middle - 1.3 * width - 0.055 * together, middle + 1.45 * width - 0.02 * together


def _brow_line(face: FaceCoordinates, t: Plane) -> Plane:
    """Return the vertical position of a brow.

    Args:
        face: Pixel positions and parameters of the face.
        t: Position along the brow, from 0 at the inner end to 1 at the outer end.
    """
    inner = 0.095 * face.units["AU4"] - 0.12 * face.units["AU1"]
    outer = 0.05 * face.units["AU4"] - 0.125 * face.units["AU2"]
    inwards = (1 - t) * (1 - t) * (1 + 2 * t)
    arch = 0.03 - 0.16 * t * (1 - t) + 0.02 * t
    return np.asarray(
        arch - face.proportions["brow_height"] + inwards * inner + (1 - inwards) * outer
    )


def forehead_creases(face: FaceCoordinates) -> Plane:
    """Return the darkness of forehead creases: horizontal for AU1 and AU2, vertical for AU4."""
    down = face.down + face.proportions["brow_height"]
    arc = 0.15 * face.x * face.x
    dark = np.zeros_like(face.x)
    for height in (0.175, 0.245):
        offset = down + height - arc
        dark += face.units["AU1"] * stroke(offset, face.x, 0.028, -0.2, 0.2)
        offset = down + height - 0.02 - 0.2 * (face.x - 0.36)
        dark += face.units["AU2"] * stroke(offset, face.x, 0.028, 0.22, 0.5)
    upright = stroke(face.x - 0.055, down, 0.032, -0.09, 0.17)
    return np.asarray(dark + 1.3 * face.units["AU4"] * upright)


def eyes(face: FaceCoordinates) -> Plane:
    """Return the fraction of each pixel covered by the open eyes.

    AU6 raises the lower lid, AU7 closes both lids.
    """
    x, y = face.eyes
    top, bottom = _lids(face)
    return lens(x, y + 0.08 * x, face.proportions["eye_width"], top, bottom, face.pixel)


def _lids(face: FaceCoordinates) -> tuple[Plane, Plane]:
    """Return the distances of the upper and the lower lid from the eye's horizontal axis."""
    cheek, tight, opening = face.units["AU6"], face.units["AU7"], face.proportions["eye_opening"]
    return opening * (1.05 - 0.5 * tight), opening * (0.8 - 0.4 * cheek - 0.45 * tight)


def irises(face: FaceCoordinates) -> tuple[Plane, Plane, Plane]:
    """Return the fraction of each pixel covered by irises, by pupils and by glints.

    The parts that the eyelids hide are included.
    """
    x, y = face.eyes
    x, y = x - face.side * face.gaze[0], y - face.gaze[1]
    radius = 0.95 * face.proportions["eye_opening"]
    distance = ellipse(x, y, radius, radius)
    glint = ellipse(x - face.side * 0.02, y + 0.022, 0.014, 0.014)
    return (
        cover(distance, face.pixel),
        cover(distance + 0.55 * radius, face.pixel),
        cover(glint, face.pixel),
    )


def eye_creases(face: FaceCoordinates) -> Plane:
    """Return the darkness around the eyes: lashes, lid folds and creases.

    AU6 adds the pouch below the eye and the crow's feet, AU7 the crease of the lower lid.
    """
    x, y = face.eyes
    y = y + 0.08 * x
    top, bottom = _lids(face)
    width, cheek, tight = face.proportions["eye_width"], face.units["AU6"], face.units["AU7"]
    u = x / width
    bow = 1 - u * u
    dark = 1.6 * stroke(y + top * bow, x, 0.03, -1.08 * width, 1.15 * width)
    dark += 0.5 * stroke(y - bottom * bow, x, 0.022, -width, width)
    dark += (0.35 + 0.35 * tight) * stroke(y + (top + 0.042) * bow, x, 0.02, -width, 1.2 * width)
    dark += 0.7 * tight * stroke(y - (bottom + 0.035) * bow, x, 0.022, -width, width)
    pouch = y - 0.115 * (1 - 0.6 * u * u)
    dark += cheek * stroke(pouch, x, 0.03, -1.1 * width, 1.3 * width)
    foot = x - 1.12 * width
    for slope in (-0.75, -0.05, 0.65):
        offset = y - slope * foot
        dark += cheek * stroke(offset, foot, 0.022, 0.0, 0.14)
    return dark
