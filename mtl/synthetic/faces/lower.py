"""Drawing of nose, cheeks, mouth and jaw: action units 6 (cheeks), 10, 12, 15 and 23 to 26."""

from dataclasses import dataclass

import numpy as np

from mtl.synthetic.faces.face_coordinates import FaceCoordinates
from mtl.synthetic.faces.shapes import Plane, bump, cover, ellipse, lens, stroke


def jaw_height(face: FaceCoordinates) -> Plane:
    """Return the distance of the chin below the face's centre; action unit AU26 increases it."""
    return face.proportions["head_height"] * 0.93 + 0.09 * face.units["AU26"]


@dataclass(frozen=True)
class Mouth:
    """Fraction of each pixel covered by the parts of a mouth.

    Lips are painted first; opening, tongue and teeth are painted over them.

    Attributes:
        lips, opening, teeth, tongue: Covered fraction of each pixel, 0 to 1.
        dark: Darkness of the line between the lips and of the creases around the mouth.
    """

    lips: Plane
    opening: Plane
    teeth: Plane
    tongue: Plane
    dark: Plane


def mouth(face: FaceCoordinates) -> Mouth:
    """Return the fraction of each pixel covered by the parts of the mouth.

    The lips follow a parabola through the mouth's corners. AU12 draws the corners up and outwards,
    AU15 down. AU10 raises the upper lip. AU23 makes both lips thin, AU24 presses and narrows them.
    AU25 parts the lips, AU26 opens the mouth.
    """
    a, lengths = face.units, face.proportions
    width, thickness = lengths["mouth_width"], lengths["lip_thickness"]
    width = width * (1 + 0.34 * a["AU12"] - 0.3 * a["AU24"] - 0.08 * a["AU26"])
    u = face.x / width
    corner = 0.115 * a["AU15"] - 0.135 * a["AU12"]
    y = face.down - lengths["mouth_height"] - corner * u * u
    y = y - 0.02 * a["AU26"] + 0.03 * a["AU12"]
    full = thickness * (1 - 0.68 * a["AU23"] - 0.25 * a["AU24"] * (1 - a["AU23"]))
    up = 0.03 * a["AU25"] + 0.03 * a["AU26"]
    open_ = 0.05 * a["AU25"] + 0.15 * a["AU26"]
    notch = 0.25 * thickness * bump(face.x, y, 0.07, 1.0)
    top, bottom = up + full + 0.055 * a["AU10"] - notch, open_ + 1.25 * full
    inner = lens(face.x, y, 0.92 * width, up, open_, face.pixel)
    parted = (a["AU25"] + a["AU26"]).clip(0, 1)
    teeth = ellipse(face.x, y + up - 0.012, 0.75 * width, 0.05)
    tongue = ellipse(face.x, y - open_ - 0.01, 0.55 * width, 0.06)
    seam = stroke(y, face.x, 0.024, -1.1 * width, 1.1 * width)
    seam *= 1.0 + 0.5 * a["AU23"] + 1.1 * a["AU24"]
    return Mouth(
        lips=lens(face.x, y, width, top, bottom, face.pixel),
        opening=inner,
        teeth=inner * parted * cover(teeth, face.pixel),
        tongue=inner * a["AU26"] * cover(tongue, face.pixel),
        dark=seam * (1 - inner) + _mouth_creases(face, y, width, bottom),
    )


def _mouth_creases(face: FaceCoordinates, y: Plane, width: Plane, lower: Plane) -> Plane:
    """Return the darkness of the shade below the lip and the creases at the mouth's corners.

    AU12 and AU24 deepen the pits at the corners, AU15 the lines below the corners.

    Args:
        face: Pixel positions and parameters of the face.
        y: Vertical position of each pixel relative to the line between the lips.
        width: Half the width of the mouth.
        lower: Vertical position of the lower lip's edge.
    """
    a = face.units
    shade = 0.45 * stroke(y - lower - 0.035, face.x, 0.04, -0.6 * width, 0.6 * width)
    pit = face.x - 1.08 * width
    pits = (1.3 * a["AU24"] + 0.5 * a["AU12"]) * bump(pit, y, 0.05, 0.07)
    sag = pit - 0.02 - 0.35 * (y - 0.1)
    return np.asarray(shade + pits + 0.7 * a["AU15"] * stroke(sag, y, 0.03, 0.01, 0.19))


def nose(face: FaceCoordinates) -> tuple[Plane, Plane]:
    """Return the horizontal slope of the nose, for shading, and the darkness of nostrils and folds.

    AU10 raises the wings of the nose and deepens the fold from nose to mouth. AU12 also deepens
    this fold and moves it outwards.
    """
    lift = 0.03 * face.units["AU10"]
    tip, width = face.proportions["nose_length"], face.proportions["nose_width"]
    x = face.side * face.x - 0.18 * face.yaw  # the nose stands out of the face
    far = np.abs(x)
    height = ((face.down + 0.22) / (tip + 0.22)).clip(0, 1)  # 0 at the root, 1 at the tip
    ridge = width * (0.35 + 0.75 * height)
    below = ((tip + 0.09 - face.down) / 0.09).clip(0, 1)
    slope = (x / ridge) * bump(x, 0.0, 1.7 * ridge, 1.0) * height * below
    dark = 1.5 * bump(far - 0.45 * width, face.down - tip - 0.03 + lift, 0.05, 0.03)
    wing = far - width * (1.0 + 0.12 * face.units["AU10"])
    y = face.down - tip + lift
    dark += (0.5 + 0.5 * face.units["AU10"]) * stroke(wing + 3 * y * y, y, 0.028, -0.09, 0.06)
    dark += 0.5 * bump(x, face.down - tip - 0.055 + lift, 0.8 * width, 0.035)
    return slope, dark + _folds(face, tip, width)


def _folds(face: FaceCoordinates, tip: Plane, width: Plane) -> Plane:
    """Return the darkness of the folds from nose to mouth, and of the nose's wrinkles (AU10)."""
    a = face.units
    start, y = tip - 0.06, face.down - tip
    reach = width + 0.06 + (0.34 + 0.12 * a["AU12"]) * (y + 0.06)
    fold = stroke(face.x - reach, face.down, 0.034, start, tip + 0.33)
    wrinkles = np.zeros_like(face.x)
    for height in (0.12, 0.19):
        offset = face.down - tip + height - 0.5 * (face.x - 0.05)
        wrinkles += stroke(offset, face.x, 0.024, 0.015, 0.15)
    depth = 0.12 + 0.75 * a["AU10"] + 0.4 * a["AU12"]
    return np.asarray(depth * fold + 0.7 * a["AU10"] * wrinkles)


def cheeks(face: FaceCoordinates) -> Plane:
    """Return the brightness to add to the cheeks, relative to the skin's brightness.

    AU6 raises and brightens the cheeks.
    """
    raised = face.units["AU6"]
    ball = bump(face.x - 0.37, face.down - 0.19 + 0.08 * raised, 0.2, 0.2 - 0.04 * raised)
    return np.asarray((0.05 + 0.15 * raised) * ball)
