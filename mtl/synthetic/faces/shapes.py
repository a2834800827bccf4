"""Anti-aliased shapes: signed distances (negative inside) and the covered fraction of each pixel.

All operations are elementwise and exactly rounded, so the value of a pixel depends neither on the
rest of the batch nor on the pixel's position in memory.
"""

import numpy as np

Plane = np.ndarray  # float32, (T, S, S) or what broadcasts to it
Length = Plane | float


def cover(distance: Plane, pixel: Length) -> Plane:
    """Return the fraction of each pixel that a shape covers.

    Args:
        distance: Signed distance of each pixel to the shape's edge, negative inside.
        pixel: Side length of a pixel.
    """
    return np.asarray((0.5 - distance / pixel).clip(0, 1))


def ellipse(x: Plane, y: Plane, width: Length, height: Length) -> Plane:
    """Return the first-order signed distance of points to an ellipse around 0, negative inside.

    ``x`` and ``y`` are coordinates of the points, ``width`` and ``height`` half axes of the
    ellipse.
    """
    p, q = x / width, y / height
    radius = np.sqrt(p * p + q * q) + 1e-6
    p, q = p / width, q / height
    return np.asarray(radius * (radius - 1) / (np.sqrt(p * p + q * q) + 1e-6))


def lens(x: Plane, y: Plane, width: Length, top: Length, bottom: Length, pixel: Length) -> Plane:
    """Return the fraction of each pixel covered by the area between two parabolas: an eye or mouth.

    Both parabolas pass through (-width, 0) and (width, 0); at x = 0 they reach y = ``-top`` and y =
    ``bottom``. The coverage is the difference of the coverages of two areas, those on the +y side
    of each parabola, so it goes to 0 as the eye or mouth closes.
    """
    u = x / width
    bow = (1 - u * u).clip(-1, 1)
    slope = (top + bottom) / width * u
    blur = pixel * np.sqrt(1 + slope * slope)
    above, below = cover(-top * bow - y, blur), cover(bottom * bow - y, blur)
    return np.asarray((above - below).clip(0, 1))


def rounded_intersection(a: Plane, b: Plane, radius: float) -> Plane:
    """Return the signed distance to the intersection of two shapes, with rounded corners.

    ``a`` and ``b`` are the signed distances to the two shapes. The corner is rounded where they
    differ by less than ``radius``.
    """
    near = (1 - np.abs(a - b) / radius).clip(0)
    return np.asarray(np.maximum(a, b) + 0.25 * radius * near * near)


def stroke(offset: Plane, along: Plane, width: float, start: Length, end: Length) -> Plane:
    """Return the intensity, 0 to 1, of a soft line.

    The line fades out across its axis, and over a fifth of its length at each end.

    Args:
        offset: Distance of each pixel from the line's axis.
        along: Position of each pixel along the line.
        width: Distance from the axis at which the line has faded to 0.
        start: Position of the line's first end.
        end: Position of the line's second end.
    """
    fade = (end - start) / 5
    ends = np.minimum(along - start, end - along) / fade
    across = (1 - np.abs(offset) / width).clip(0)
    return np.asarray(across * ends.clip(0, 1))


def bump(x: Plane, y: Length, width: Length, height: Length) -> Plane:
    """Return the intensity of a soft spot: 1 at the origin, 0 outside an ellipse around it.

    ``x`` and ``y`` are pixel coordinates, ``width`` and ``height`` half axes of the ellipse.
    """
    p, q = x / width, y / height
    inside = (1 - p * p - q * q).clip(0)
    return np.asarray(inside * inside)
