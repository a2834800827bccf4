"""Nose, cheeks, mouth and jaw: action units 10, 12, 15, 23, 24, 25, 26 and the cheeks of 6."""

from dataclasses import dataclass

import numpy as np

from mtl.synthetic.faces.face_coordinates import FaceCoordinates
from mtl.synthetic.faces.shapes import Plane, bump, cover, ellipse, lens, stroke


def jaw_height(s: FaceCoordinates) -> Plane:
    """Of the chin below the face's centre: AU26 lowers it."""
    return s.own["head_height"] * 0.93 + 0.09 * s.units["AU26"]


@dataclass(frozen=True)
class Mouth:
    """Coverages, each painted over those before; ``dark`` is the darkness of seam and creases."""

    lips: Plane
    opening: Plane
    teeth: Plane
    tongue: Plane
    dark: Plane


def mouth(s: FaceCoordinates) -> Mouth:
    """Lips around an opening, along a parabola through the corners.

    AU12 draws the corners up and out, AU15 down; AU10 lifts the upper lip; AU23 thins both, AU24
    presses and narrows them; AU25 parts them, AU26 opens the mouth.
    """
    a, thickness = s.units, s.own["lip_thickness"]
    width = s.own["mouth_width"] * (1 + 0.34 * a["AU12"] - 0.3 * a["AU24"] - 0.08 * a["AU26"])
    u = s.x / width
    corner = 0.115 * a["AU15"] - 0.135 * a["AU12"]
    y = s.down - s.own["mouth_height"] - corner * u * u - 0.02 * a["AU26"] + 0.03 * a["AU12"]
    full = thickness * (1 - 0.68 * a["AU23"] - 0.25 * a["AU24"] * (1 - a["AU23"]))
    up = 0.03 * a["AU25"] + 0.03 * a["AU26"]
    open_ = 0.05 * a["AU25"] + 0.15 * a["AU26"]
    notch = 0.25 * thickness * bump(s.x, y, 0.07, 1.0)
    top, bottom = up + full + 0.055 * a["AU10"] - notch, open_ + 1.25 * full
    inner = lens(s.x, y, 0.92 * width, up, open_, s.pixel)
    parted = (a["AU25"] + a["AU26"]).clip(0, 1)
    teeth = ellipse(s.x, y + up - 0.012, 0.75 * width, 0.05)
    tongue = ellipse(s.x, y - open_ - 0.01, 0.55 * width, 0.06)
    seam = stroke(y, s.x, 0.024, -1.1 * width, 1.1 * width)
    seam *= 1.0 + 0.5 * a["AU23"] + 1.1 * a["AU24"]
    return Mouth(
        lips=lens(s.x, y, width, top, bottom, s.pixel),
        opening=inner,
        teeth=inner * parted * cover(teeth, s.pixel),
        tongue=inner * a["AU26"] * cover(tongue, s.pixel),
        dark=seam * (1 - inner) + _mouth_creases(s, y, width, bottom),
    )


def _mouth_creases(s: FaceCoordinates, y: Plane, width: Plane, lower: Plane) -> Plane:
    """Shade below the lower lip, pits beside the corners (AU15, AU24, AU12)."""
    a = s.units
    shade = 0.45 * stroke(y - lower - 0.035, s.x, 0.04, -0.6 * width, 0.6 * width)
    pit = s.x - 1.08 * width
    pits = (1.3 * a["AU24"] + 0.5 * a["AU12"]) * bump(pit, y, 0.05, 0.07)
    sag = pit - 0.02 - 0.35 * (y - 0.1)
    return np.asarray(shade + pits + 0.7 * a["AU15"] * stroke(sag, y, 0.03, 0.01, 0.19))


def nose(s: FaceCoordinates) -> tuple[Plane, Plane]:
    """Signed sideways slope of the nose (for light), and darkness of nostrils, wings and folds.

    AU10 lifts the wings and draws the fold from nose to mouth, which AU12 draws outwards too.
    """
    lift = 0.03 * s.units["AU10"]
    tip, width = s.own["nose_length"], s.own["nose_width"]
    x = s.side * s.x - 0.18 * s.yaw  # it stands out of the face
    far = np.abs(x)
    height = ((s.down + 0.22) / (tip + 0.22)).clip(0, 1)  # 0 at the root, 1 at the tip
    ridge = width * (0.35 + 0.75 * height)
    below = ((tip + 0.09 - s.down) / 0.09).clip(0, 1)
    slope = (x / ridge) * bump(x, 0.0, 1.7 * ridge, 1.0) * height * below
    dark = 1.5 * bump(far - 0.45 * width, s.down - tip - 0.03 + lift, 0.05, 0.03)
    wing = far - width * (1.0 + 0.12 * s.units["AU10"])
    y = s.down - tip + lift
    dark += (0.5 + 0.5 * s.units["AU10"]) * stroke(wing + 3 * y * y, y, 0.028, -0.09, 0.06)
    dark += 0.5 * bump(x, s.down - tip - 0.055 + lift, 0.8 * width, 0.035)
    return slope, dark + _folds(s, tip, width)


def _folds(s: FaceCoordinates, tip: Plane, width: Plane) -> Plane:
    """From the wings of the nose to the corners of the mouth; AU10 also wrinkles the nose."""
    a = s.units
    start, y = tip - 0.06, s.down - tip
    reach = width + 0.06 + (0.34 + 0.12 * a["AU12"]) * (y + 0.06)
    fold = stroke(s.x - reach, s.down, 0.034, start, tip + 0.33)
    wrinkles = np.zeros_like(s.x)
    for height in (0.12, 0.19):
        offset = s.down - tip + height - 0.5 * (s.x - 0.05)
        wrinkles += stroke(offset, s.x, 0.024, 0.015, 0.15)
    depth = 0.12 + 0.75 * a["AU10"] + 0.4 * a["AU12"]
    return np.asarray(depth * fold + 0.7 * a["AU10"] * wrinkles)


def cheeks(s: FaceCoordinates) -> Plane:
    """Brightness added to the skin: the cheek's ball, higher and rounder with AU6."""
    raised = s.units["AU6"]
    ball = bump(s.x - 0.37, s.down - 0.19 + 0.08 * raised, 0.2, 0.2 - 0.04 * raised)
    return np.asarray((0.05 + 0.15 * raised) * ball)
