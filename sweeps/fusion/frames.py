"""Frames that the trials of a sweep predict: their parts, labels and scores."""

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
    """Frames that the trials of a sweep predict, the same for all trials.

    Attributes:
        listing: Listed frames of the dataset, with their labels.
        parts: The part of each video.
        rows: Row of each predicted frame in the listing.
    """

    listing: Listing
    parts: Mapping[str, str]
    rows: Int[np.ndarray, " N"]

    def positions(self, *parts: str) -> Int[np.ndarray, " n"]:
        """Return the positions, among the predicted frames, of the frames in the given parts."""
        wanted = np.array([self.parts[name] in parts for name in self.listing.names])
        return np.flatnonzero(wanted[self.listing.video[self.rows]])

    def video_count(self, part: str) -> int:
        """Return the number of videos of a part that have predicted frames."""
        return len(np.unique(self.listing.video[self.rows[self.positions(part)]]))

    def labels(self, task: Task, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a task's labels in one part and their valid mask, both of shape (n, L)."""
        rows = self.rows[self.positions(part)]
        return self.listing.values[rows, task.labels], self.listing.mask[rows, task.labels]

    def scores(self, outputs: Float[np.ndarray, "N 22"], part: str) -> dict[str, Any]:
        """Return all scores of some outputs in one part.

        Args:
            outputs: Outputs for all predicted frames.
            part: Name of the part.
        """
        at = self.positions(part)
        rows = self.rows[at]
        return metrics.scores(outputs[at], self.listing.values[rows], self.listing.mask[rows])

    def bootstrap_scores(
        self, outputs: Float[np.ndarray, "N 22"], part: str
    ) -> dict[str, BootstrapScore]:
        """Return the scores of some outputs in one part, with their bootstrap over its videos.

        Args:
            outputs: Outputs for all predicted frames.
            part: Name of the part.
        """
        at = self.positions(part)
        rows = self.rows[at]
        labels, mask = self.listing.values[rows], self.listing.mask[rows]
        return bootstrap(outputs[at], labels, mask, self.listing.video[rows])


def listed_rows(listing: Listing, predictions: Predictions) -> Int[np.ndarray, " N"]:
    """Return the row of each predicted frame in the listing; both may be in any order."""
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
    """Return the tasks whose outputs are not all NaN."""
    return tuple(t.name for t in TASKS.values() if not np.isnan(outputs[:, t.outputs]).all())
