"""The frames that trials predict: where they are listed, in which part, and what they score."""

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
    """The predicted frames.

    Attributes:
        listing: What is listed, with its labels.
        parts: The part of each video.
        rows: Where the predicted frames stand in the listing.
    """

    listing: Listing
    parts: Mapping[str, str]
    rows: Int[np.ndarray, " N"]

    def of(self, *parts: str) -> Int[np.ndarray, " n"]:
        """Positions among the predicted frames of those in ``parts``."""
        wanted = np.array([self.parts[name] in parts for name in self.listing.names])
        return np.flatnonzero(wanted[self.listing.video[self.rows]])

    def videos(self, part: str) -> int:
        """How many videos of a part have predicted frames."""
        return len(np.unique(self.listing.video[self.rows[self.of(part)]]))

    def labels(self, task: Task, part: str) -> tuple[np.ndarray, np.ndarray]:
        """A task's labels of one part, (n, L), and which are known."""
        rows = self.rows[self.of(part)]
        return self.listing.values[rows, task.labels], self.listing.mask[rows, task.labels]

    def scores(self, outputs: Float[np.ndarray, "N 22"], part: str) -> dict[str, Any]:
        """All scores of one part."""
        at = self.of(part)
        rows = self.rows[at]
        return metrics.scores(outputs[at], self.listing.values[rows], self.listing.mask[rows])

    def sampled(self, outputs: Float[np.ndarray, "N 22"], part: str) -> dict[str, BootstrapScore]:
        """The part's scores with what the bootstrap over its videos says of them."""
        at = self.of(part)
        rows = self.rows[at]
        labels, mask = self.listing.values[rows], self.listing.mask[rows]
        return bootstrap(outputs[at], labels, mask, self.listing.video[rows])


def listed_rows(listing: Listing, predictions: Predictions) -> Int[np.ndarray, " N"]:
    """Where predicted frames stand in the listing, whatever the order of either."""
    place = {name: number for number, name in enumerate(listing.names)}
    video = np.array([place[name] for name in predictions.names])[predictions.video]
    span = max(int(frame.max(initial=0)) for frame in (listing.frame, predictions.frame)) + 1
    listed = listing.video.astype(np.int64) * span + listing.frame
    wanted = video.astype(np.int64) * span + predictions.frame
    order = np.argsort(listed)
    rows = order[np.searchsorted(listed, wanted, sorter=order).clip(max=len(order) - 1)]
    assert (listed[rows] == wanted).all(), "a predicted frame is not listed"
    return np.asarray(rows)


def predicted_tasks(outputs: Float[np.ndarray, "N 22"]) -> tuple[str, ...]:
    """The tasks whose outputs are not missing."""
    return tuple(t.name for t in TASKS.values() if not np.isnan(outputs[:, t.outputs]).all())
