"""Anti-aliased shapes: signed distances (negative inside) and the share of a pixel they cover.

All of it is element by element and of exactly rounded operations, so that a pixel's value depends
on nothing beside it: neither on the batch nor on where in memory it stands.
"""

import numpy as np

Plane = np.ndarray  # float32, (T, S, S) or what broadcasts to it
Length = Plane | float


def cover(distance: Plane, pixel: Length) -> Plane:
    """Share of a pixel inside a shape whose edge is this far away."""
    return np.asarray((0.5 - distance / pixel).clip(0, 1))


def ellipse(x: Plane, y: Plane, width: Length, height: Length) -> Plane:
    """Signed distance to an ellipse around 0, to first order; half axes."""
    p, q = x / width, y / height
    radius = np.sqrt(p * p + q * q) + 1e-6
    p, q = p / width, q / height
    return np.asarray(radius * (radius - 1) / (np.sqrt(p * p + q * q) + 1e-6))


def lens(x: Plane, y: Plane, width: Length, top: Length, bottom: Length, pixel: Length) -> Plane:
    """Coverage by what two parabolas through (-width, 0) and (width, 0) enclose.

    They reach ``-top`` and ``bottom`` in the middle. It is the difference of two half planes', so
    that it goes to 0 where a mouth or an eye closes.
    """
    u = x / width
    bow = (1 - u * u).clip(-1, 1)
    slope = (top + bottom) / width * u
    blur = pixel * np.sqrt(1 + slope * slope)
    above, below = cover(-top * bow - y, blur), cover(bottom * bow - y, blur)
    return np.asarray((above - below).clip(0, 1))


def both(a: Plane, b: Plane, radius: float) -> Plane:
    """Signed distance to the intersection of two shapes, its corners rounded."""
    near = (1 - np.abs(a - b) / radius).clip(0)
    return np.asarray(np.maximum(a, b) + 0.25 * radius * near * near)


def stroke(offset: Plane, along: Plane, width: float, start: Length, end: Length) -> Plane:
    """A soft line, 0 to 1: ``offset`` across it, ``along`` it from ``start`` to ``end``.

    It fades over a fifth of its length at both ends.
    """
    fade = (end - start) / 5
    ends = np.minimum(along - start, end - along) / fade
    across = (1 - np.abs(offset) / width).clip(0)
    return np.asarray(across * ends.clip(0, 1))


def bump(x: Plane, y: Length, width: Length, height: Length) -> Plane:
    """A soft spot around 0: 1 in the middle, 0 from the ellipse of these half axes on."""
    p, q = x / width, y / height
    inside = (1 - p * p - q * q).clip(0)
    return np.asarray(inside * inside)
