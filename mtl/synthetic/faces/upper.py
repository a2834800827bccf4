"""Brows, forehead and eyes: action units 1, 2, 4, 6 and 7."""

import numpy as np

from mtl.synthetic.faces.face_coordinates import FaceCoordinates
from mtl.synthetic.faces.shapes import Plane, cover, ellipse, lens, stroke


def brows(s: FaceCoordinates) -> Plane:
    """Coverage: an arc on each side, thinner outwards.

    AU1 lifts its inner end, AU2 its outer end, AU4 lowers it and draws it to the middle.
    """
    start, end = _brow_ends(s)
    t = (s.x - start) / (end - start)
    centre = _brow_line(s, t.clip(0, 1))
    thickness = s.own["brow_thickness"] * (1.1 - 0.55 * t.clip(0, 1))
    ends = np.maximum(start - s.x, s.x - end)
    return cover(np.maximum(np.abs(s.down - centre) - thickness, ends), s.pixel)


def _brow_ends(s: FaceCoordinates) -> tuple[Plane, Plane]:
    middle, width, together = s.own["eye_distance"], s.own["eye_width"], s.units["AU4"]
    return middle - 1.3 * width - 0.055 * together, middle + 1.45 * width - 0.02 * together


def _brow_line(s: FaceCoordinates, t: Plane) -> Plane:
    """Height of the brow from its inner (t = 0) to its outer end (t = 1)."""
    inner = 0.095 * s.units["AU4"] - 0.12 * s.units["AU1"]
    outer = 0.05 * s.units["AU4"] - 0.125 * s.units["AU2"]
    inwards = (1 - t) * (1 - t) * (1 + 2 * t)
    arch = 0.03 - 0.16 * t * (1 - t) + 0.02 * t
    return np.asarray(arch - s.own["brow_height"] + inwards * inner + (1 - inwards) * outer)


def forehead_creases(s: FaceCoordinates) -> Plane:
    """Darkness: lines across over the raised part of the brow (AU1, AU2), upright ones (AU4)."""
    down = s.down + s.own["brow_height"]
    arc = 0.15 * s.x * s.x
    dark = np.zeros_like(s.x)
    for height in (0.175, 0.245):
        offset = down + height - arc
        dark += s.units["AU1"] * stroke(offset, s.x, 0.028, -0.2, 0.2)
        offset = down + height - 0.02 - 0.2 * (s.x - 0.36)
        dark += s.units["AU2"] * stroke(offset, s.x, 0.028, 0.22, 0.5)
    upright = stroke(s.x - 0.055, down, 0.032, -0.09, 0.17)
    return np.asarray(dark + 1.3 * s.units["AU4"] * upright)


def eyes(s: FaceCoordinates) -> Plane:
    """Coverage of the open eyes: AU6 pushes the lower lid up, AU7 narrows both lids."""
    x, y = s.eyes
    top, bottom = _lids(s)
    return lens(x, y + 0.08 * x, s.own["eye_width"], top, bottom, s.pixel)


def _lids(s: FaceCoordinates) -> tuple[Plane, Plane]:
    cheek, tight, opening = s.units["AU6"], s.units["AU7"], s.own["eye_opening"]
    return opening * (1.05 - 0.5 * tight), opening * (0.8 - 0.4 * cheek - 0.45 * tight)


def irises(s: FaceCoordinates) -> tuple[Plane, Plane, Plane]:
    """Coverage of irises, pupils and their glints, before the lids cut them."""
    x, y = s.eyes
    x, y = x - s.side * s.gaze[0], y - s.gaze[1]
    radius = 0.95 * s.own["eye_opening"]
    distance = ellipse(x, y, radius, radius)
    glint = ellipse(x - s.side * 0.02, y + 0.022, 0.014, 0.014)
    return (
        cover(distance, s.pixel),
        cover(distance + 0.55 * radius, s.pixel),
        cover(glint, s.pixel),
    )


def eye_creases(s: FaceCoordinates) -> Plane:
    """Darkness: lashes, the upper lid's fold; AU6's pouch and crow's feet, AU7's lower lid."""
    x, y = s.eyes
    y = y + 0.08 * x
    top, bottom = _lids(s)
    width, cheek, tight = s.own["eye_width"], s.units["AU6"], s.units["AU7"]
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
