"""The challenge's submission file."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mtl.tasks import LABEL_COLUMNS, MISSING
from mtl.whole_files import write_atomically

HEADER = "image,valence,arousal,expression,aus"


def write_submission(
    path: str | Path, image_names: Sequence[str], labels: np.ndarray, mask: np.ndarray
) -> None:
    """Write predictions in the challenge's format; the file appears whole or not at all.

    Args:
        path: The file to write.
        image_names: The frames in the order of the released list, N names.
        labels: Decided labels in the columns ``LABEL_COLUMNS``, (N, 15). Valence and arousal are
            clipped to [-1, 1] and written with 4 decimals, the others as integers.
        mask: Where it is False the challenge's missing value is written, (N, 15).
    """
    lines = [HEADER, *submission_lines(image_names, labels, mask)]
    write_atomically(Path(path), ("\n".join(lines) + "\n").encode())


def submission_lines(
    image_names: Sequence[str], labels: np.ndarray, mask: np.ndarray
) -> Iterator[str]:
    """The lines of a submission after its ``HEADER``, as ``write_submission`` writes them."""
    shape = (len(image_names), len(LABEL_COLUMNS))
    if labels.shape != shape or mask.shape != shape:
        raise ValueError(f"labels {labels.shape} and mask {mask.shape} must both be {shape}")
    if not np.isfinite(labels[mask]).all():
        raise ValueError("predictions hold a NaN where the mask says there is a value")
    values = np.where(mask, labels, MISSING)
    # Adding 0 turns -0.0 into 0.0.
    affect = np.where(mask[:, :2], values[:, :2].clip(-1, 1).round(4) + 0.0, MISSING[:2])
    for image, pair, known, others in zip(
        image_names, affect, mask[:, :2], values[:, 2:].round().astype(int), strict=True
    ):
        fields = [f"{v:.4f}" if k else f"{v:.0f}" for v, k in zip(pair, known, strict=True)]
        yield ",".join([image, *fields, *map(str, others)])
