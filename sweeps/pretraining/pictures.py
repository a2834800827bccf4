"""Pictures of faces and of their reconstructions by a masked autoencoder, as PNG files."""

import io

import numpy as np
from PIL import Image


def as_png(faces: np.ndarray) -> bytes:
    """Return the bytes of one PNG picture with a column for each face and a row for each version.

    Args:
        faces: N faces, each in three versions (original, masked, reconstructed) of S x S RGB
            pixels: (N, 3, S, S, 3), uint8.
    """
    columns, rows, side = faces.shape[:3]
    gap = max(1, side // 32)
    picture = np.full((rows * (side + gap) - gap, columns * (side + gap) - gap, 3), 255, np.uint8)
    for column, versions in enumerate(faces):
        for row, version in enumerate(versions):
            top, left = row * (side + gap), column * (side + gap)
            picture[top : top + side, left : left + side] = version
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()
