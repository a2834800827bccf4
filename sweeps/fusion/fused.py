"""Fused model: members chosen on ``select``, the weighted mean of their outputs, post-processed."""

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

MemberWeights = Mapping[str, Mapping[str, float]]
"""Weight of each member in the mean: by the task, then by the member's signature."""


@dataclass(frozen=True)
class FusedModel:
    """Outputs of a fused model and how they were made.

    Attributes:
        outputs: Post-processed outputs for all predicted frames.
        raw: Outputs for all predicted frames before post-processing.
        members: Weight of each member in the mean of each task.
        postprocessing: Post-processing chosen on ``select``.
    """

    outputs: Float[np.ndarray, "N 22"]
    raw: Float[np.ndarray, "N 22"]
    members: MemberWeights
    postprocessing: Postprocessing


def fuse_candidates(
    candidates: Candidates, frames: PredictedFrames, settings: FusionSection
) -> FusedModel:
    """Fuse the candidates by the search file's settings.

    Args:
        candidates: Candidates of each task; there is at least one.
        frames: The predicted frames.
        settings: Section ``fusion`` of the search file.
    """
    members = choose_members(candidates, frames, settings.method, settings.steps)
    raw = mean_outputs(candidates, members)
    outputs, postprocessing = postprocessed(raw, frames, settings.postprocess)
    return FusedModel(outputs, raw, members, postprocessing)


def choose_members(
    candidates: Candidates, frames: PredictedFrames, method: str, steps: int
) -> MemberWeights:
    """Choose the members of each task on ``select``.

    A task without a label on ``select`` has one candidate, the best trial, which becomes its only
    member.

    Args:
        candidates: Candidates of each task.
        frames: The predicted frames.
        method: Name of the rule in ``mtl.ensemble.selection.RULES``.
        steps: The rule's largest number of members.

    Returns:
        Weight of each member, without weights of 0.
    """
    select = frames.positions("select")
    members: dict[str, dict[str, float]] = {}
    for name, task in TASKS.items():
        signatures, outputs = candidates.task_outputs(task)
        if not signatures:
            continue
        labels, mask = frames.labels(task, "select")
        weights = np.ones(1)
        if mask.any():
            weights = RULES[method](task, outputs[:, select], labels, mask, steps).fusion_weights
        members[name] = nonzero_weights(signatures, weights)
    return members


def nonzero_weights(signatures: Sequence[str], weights: np.ndarray) -> dict[str, float]:
    """Return the members' weights by signature, without weights of 0."""
    by_signature = zip(signatures, weights.tolist(), strict=True)
    return {signature: weight for signature, weight in by_signature if weight}


def mean_outputs(candidates: Candidates, members: MemberWeights) -> Float[np.ndarray, "N 22"]:
    """Return the weighted mean of the members' outputs for all predicted frames.

    Args:
        candidates: Candidates of each task.
        members: Weight of each member.

    Returns:
        The mean; NaN in the columns of a task that has no member.
    """
    means: list[tuple[slice, np.ndarray]] = []
    for name, weights in members.items():
        signatures, outputs = candidates.task_outputs(TASKS[name])
        of_candidates = np.array([weights.get(signature, 0) for signature in signatures])
        means.append((TASKS[name].outputs, fuse(outputs, of_candidates)))
    raw = np.full((len(means[0][1]), len(OUTPUT_COLUMNS)), np.nan, np.float32)
    for columns, mean in means:
        raw[:, columns] = mean
    return raw


def postprocessed(
    outputs: Float[np.ndarray, "N 22"], frames: PredictedFrames, steps: Sequence[str]
) -> tuple[Float[np.ndarray, "N 22"], Postprocessing]:
    """Post-process outputs by the parameters that score highest on ``select``.

    Args:
        outputs: Raw outputs for all predicted frames.
        frames: The predicted frames.
        steps: Names of the post-processing steps to choose parameters for.

    Returns:
        The post-processed outputs and the chosen post-processing.
    """
    listing, rows, select = frames.listing, frames.rows, frames.positions("select")
    video, frame = listing.video[rows], listing.frame[rows]
    select_rows = rows[select]
    postprocessing = choose(
        outputs[select],
        listing.values[select_rows],
        listing.mask[select_rows],
        video[select],
        frame[select],
        training_prior(listing),
        steps,
    )
    return postprocessing(outputs, video, frame), postprocessing
