"""A fused model: members chosen on ``select``, their mean, and what is then done to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mtl.ensemble.selection import RULES, fuse
from mtl.predictions.postprocess import Postprocessing, choose
from mtl.sequences.join import training_prior
from mtl.tasks import OUTPUT_COLUMNS, TASKS
from sweeps.fusion.candidates import Candidates
from sweeps.fusion.frames import PredictedFrames
from sweeps.search_file import FusionSection

Chosen = Mapping[str, Mapping[str, float]]
"""Of each task how much each member counts, by its signature."""


@dataclass(frozen=True)
class Fused:
    """Outputs of all predicted frames, raw and post-processed, and how they came about."""

    outputs: Float[np.ndarray, "N 22"]
    raw: Float[np.ndarray, "N 22"]
    members: Chosen
    postprocessing: Postprocessing


def fuse_candidates(
    candidates: Candidates, frames: PredictedFrames, settings: FusionSection
) -> Fused:
    """Fuse as the search file says."""
    members = choose_members(candidates, frames, settings.method, settings.steps)
    raw = mean_outputs(candidates, members)
    done, postprocessing = postprocessed(raw, frames, settings.postprocess)
    return Fused(done, raw, members, postprocessing)


def choose_members(
    candidates: Candidates, frames: PredictedFrames, method: str, steps: int
) -> Chosen:
    """What a rule chooses on ``select``; where a task has no label there is nothing to choose by,
    and one candidate: the best trial.
    """
    select = frames.of("select")
    chosen: dict[str, dict[str, float]] = {}
    for name, task in TASKS.items():
        signatures, outputs = candidates.of(task)
        if not signatures:
            continue
        labels, mask = frames.labels(task, "select")
        weights = np.ones(1)
        if mask.any():
            weights = RULES[method](task, outputs[:, select], labels, mask, steps).weights
        counts = zip(signatures, weights.tolist(), strict=True)
        chosen[name] = {signature: weight for signature, weight in counts if weight}
    return chosen


def mean_outputs(candidates: Candidates, members: Chosen) -> Float[np.ndarray, "N 22"]:
    """Of all predicted frames; NaN where a task has no member."""
    parts: list[tuple[slice, np.ndarray]] = []
    for name, weights in members.items():
        signatures, outputs = candidates.of(TASKS[name])
        counts = np.array([weights.get(signature, 0) for signature in signatures])
        parts.append((TASKS[name].outputs, fuse(outputs, counts)))
    raw = np.full((len(parts[0][1]), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    for columns, mean in parts:
        raw[:, columns] = mean
    return raw


def postprocessed(
    outputs: Float[np.ndarray, "N 22"], frames: PredictedFrames, steps: Sequence[str]
) -> tuple[Float[np.ndarray, "N 22"], Postprocessing]:
    """All frames with what is best on ``select``."""
    listing, rows, select = frames.listing, frames.rows, frames.of("select")
    video, frame = listing.video[rows], listing.frame[rows]
    seen = rows[select]
    found = choose(
        outputs[select],
        listing.values[seen],
        listing.mask[seen],
        video[select],
        frame[select],
        training_prior(listing),
        steps,
    )
    return found(outputs, video, frame), found
