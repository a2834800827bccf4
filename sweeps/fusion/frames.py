"""Frames that the trials of a sweep predict, with their labels, and scores of outputs for them.

Shapes: N predicted frames, 22 outputs (valence, arousal, 8 expressions, 12 action units), n frames
of some splits, L label columns of a task.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mtl.dataset import Listing
from mtl.evaluation import metrics
from mtl.evaluation.bootstrap import BootstrapScore, bootstrap
from mtl.predictions.table import Predictions
from mtl.tasks import TASKS, Task


@dataclass(frozen=True)
class PredictedFrames:
    """Frames that every trial of a sweep predicts, with their labels.

    Attributes:
        listing: All frames named in the annotation files, with their labels.
        parts: Split of each video by the video's name: train, select, confirm or test.
        rows: Row in the listing of each of the N predicted frames.
    """

    listing: Listing
    parts: Mapping[str, str]
    rows: Int[np.ndarray, " N"]

    def positions(self, *parts: str) -> Int[np.ndarray, " n"]:
        """Return the indices of the predicted frames whose videos are in the given splits.

        Args:
            *parts: Names of splits: ``select``, ``confirm`` or ``test``.
        """
        wanted = np.array([self.parts[name] in parts for name in self.listing.names])
        return np.flatnonzero(wanted[self.listing.video[self.rows]])

    def video_count(self, part: str) -> int:
        """Return the number of videos with predicted frames in a split: select, confirm or test."""
        return len(np.unique(self.listing.video[self.rows[self.positions(part)]]))

    def labels(self, task: Task, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a task's labels of the predicted frames of one split, and their valid mask.

        Args:
            task: The task, with L label columns.
            part: Name of the split: ``select``, ``confirm`` or ``test``.

        Returns:
            The labels and a mask that is True where a label is known, both (n, L) for n frames.
        """
        rows = self.rows[self.positions(part)]
        return self.listing.values[rows, task.labels], self.listing.mask[rows, task.labels]

    def scores(self, outputs: Float[np.ndarray, "N 22"], part: str) -> dict[str, Any]:
        """Return all scores of outputs on the frames of one split, by name (such as ``p_mtl``).

        Args:
            outputs: Outputs (N, 22) for all N predicted frames, also those of other splits.
            part: Name of the split: ``select``, ``confirm`` or ``test``.
        """
        at = self.positions(part)
        rows = self.rows[at]
        return metrics.scores(outputs[at], self.listing.values[rows], self.listing.mask[rows])

    def bootstrap_scores(
        self, outputs: Float[np.ndarray, "N 22"], part: str
    ) -> dict[str, BootstrapScore]:
        """Return the scores of outputs on one split, with bootstrap draws of the split's videos.

        Args:
            outputs: Outputs (N, 22) for all N predicted frames, also those of other splits.
            part: Name of the split: ``select``, ``confirm`` or ``test``.

        Returns:
            Scores by name: for each task that is labelled and predicted, such as ``ccc_valence``,
            and ``p_labelled``, the combined score P (sum of these tasks' scores).
        """
        at = self.positions(part)
        rows = self.rows[at]
        labels, mask = self.listing.values[rows], self.listing.mask[rows]
        return bootstrap(outputs[at], labels, mask, self.listing.video[rows])


def listed_rows(listing: Listing, predictions: Predictions) -> Int[np.ndarray, " N"]:
    """Return the row in the listing of each predicted frame.

    Args:
        listing: All frames named in the annotation files, in any order.
        predictions: Predictions for some of these frames, in any order.
    """
    index = {name: number for number, name in enumerate(listing.names)}
    video = np.array([index[name] for name in predictions.names])[predictions.video]
    span = max(int(frame.max(initial=0)) for frame in (listing.frame, predictions.frame)) + 1
    listed = listing.video.astype(np.int64) * span + listing.frame
    wanted = video.astype(np.int64) * span + predictions.frame
    order = np.argsort(listed)
    rows = order[np.searchsorted(listed, wanted, sorter=order).clip(max=len(order) - 1)]
    assert (listed[rows] == wanted).all(), "a predicted frame is not listed"
    return np.asarray(rows)


def predicted_tasks(outputs: Float[np.ndarray, "N 22"]) -> tuple[str, ...]:
    """Return the names of the tasks with outputs that are not all NaN."""
    return tuple(t.name for t in TASKS.values() if not np.isnan(outputs[:, t.outputs]).all())
