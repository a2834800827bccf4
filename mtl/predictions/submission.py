"""Writer of the submission file of the ABAW multi-task challenge."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mtl.tasks import LABEL_COLUMNS, MISSING
from mtl.whole_files import write_atomically

HEADER = "image,valence,arousal,expression,aus"
"""First line of a submission file."""
AFFECT_DECIMALS = 4
"""Number of decimals of valence and arousal in a submission file."""


def write_submission(
    path: str | Path, image_names: Sequence[str], labels: np.ndarray, mask: np.ndarray
) -> None:
    """Write predictions to a submission file in the challenge's format.

    The file appears complete or not at all.

    Args:
        path: File to write.
        image_names: Image name of each frame, in the order of the released test list.
        labels: Predicted labels in the columns ``LABEL_COLUMNS``, (frames, 15). Valence and
            arousal are clipped to [-1, 1] and written with ``AFFECT_DECIMALS`` decimals, the
            expression and the action units as integers.
        mask: True where a label is predicted, (frames, 15); elsewhere the challenge's value for a
            missing label is written.
    """
    lines = [HEADER, *submission_lines(image_names, labels, mask)]
    write_atomically(Path(path), ("\n".join(lines) + "\n").encode())


def submission_lines(
    image_names: Sequence[str], labels: np.ndarray, mask: np.ndarray
) -> Iterator[str]:
    """Yield the line of each frame in a submission file, without the header line.

    Args:
        image_names: Image name of each frame.
        labels: Predicted labels in the columns ``LABEL_COLUMNS``, (frames, 15).
        mask: True where a label is predicted, (frames, 15).

    Raises:
        ValueError: If the shapes differ or a predicted label is NaN or infinite.
    """
    shape = (len(image_names), len(LABEL_COLUMNS))
    if labels.shape != shape or mask.shape != shape:
        raise ValueError(f"labels {labels.shape} and mask {mask.shape} must both be {shape}")
    if not np.isfinite(labels[mask]).all():
        raise ValueError("predictions hold a NaN or infinity where the mask is True")
    values = np.where(mask, labels, MISSING)
    # Adding 0.0 turns -0.0 into 0.0.
    affect = np.where(
        mask[:, :2], values[:, :2].clip(-1, 1).round(AFFECT_DECIMALS) + 0.0, MISSING[:2]
    )
    for image, pair, known, others in zip(
        image_names, affect, mask[:, :2], values[:, 2:].round().astype(int), strict=True
    ):
        fields = [
            f"{v:.{AFFECT_DECIMALS}f}" if k else f"{v:.0f}"
            for v, k in zip(pair, known, strict=True)
        ]
        yield ",".join([image, *fields, *map(str, others)])
