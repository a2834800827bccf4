"""Fused model: post-processed, weighted mean of the outputs of chosen trials (the members).

Members, weights and post-processing are chosen on ``select`` (validation videos on which choices
are made).

Shapes: N predicted frames, 22 outputs (valence, arousal, 8 expressions, 12 action units).
"""

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
"""Weight of each member (fused trial) in the mean: by task, then by the member's signature."""


@dataclass(frozen=True)
class FusedModel:
    """Outputs, members (fused trials) and post-processing of a fused model.

    Attributes:
        outputs: Outputs (N, 22) for N predicted frames, after post-processing.
        raw: Outputs (N, 22) for the same frames, before post-processing.
        members: Weight of each member in the mean: by task, then by the member's signature.
        postprocessing: Post-processing, chosen on ``select`` (validation videos on which choices
            are made).
    """

    outputs: Float[np.ndarray, "N 22"]
    raw: Float[np.ndarray, "N 22"]
    members: MemberWeights
    postprocessing: Postprocessing


def fuse_candidates(
    candidates: Candidates, frames: PredictedFrames, settings: FusionSection
) -> FusedModel:
    """Fuse trials with the settings of the search file, and return the fused model.

    Args:
        candidates: Trials that may be fused, for each task; there is at least one.
        frames: Frames that the trials predict.
        settings: Section ``fusion`` of the search file.
    """
    members = choose_members(candidates, frames, settings.method, settings.steps)
    raw = mean_outputs(candidates, members)
    outputs, postprocessing = postprocessed(raw, frames, settings.postprocess)
    return FusedModel(outputs, raw, members, postprocessing)


def choose_members(
    candidates: Candidates, frames: PredictedFrames, method: str, steps: int
) -> MemberWeights:
    """Choose the trials to fuse, and their weights, for each task on ``select``.

    ``select`` are the validation videos on which choices are made. A task without labels there has
    one candidate, the trial with the best objective, which is then chosen.

    Args:
        candidates: Trials that may be fused, for each task.
        frames: Frames that the trials predict.
        method: Selection rule, a name in ``mtl.ensemble.selection.RULES`` such as ``greedy``.
        steps: Largest number of trials that the rule chooses.

    Returns:
        Weight of each chosen trial, by task and by signature (hash of its config).
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
    """Pair weights with the trials' signatures, and leave out weights of 0.

    Args:
        signatures: Signatures of trials (hashes of config and dataset).
        weights: Weight of each of these trials.
    """
    by_signature = zip(signatures, weights.tolist(), strict=True)
    return {signature: weight for signature, weight in by_signature if weight}


def mean_outputs(candidates: Candidates, members: MemberWeights) -> Float[np.ndarray, "N 22"]:
    """Return the weighted mean of the outputs of the members (fused trials).

    Args:
        candidates: Trials that may be fused, with their outputs.
        members: Weight of each member, by task and by signature (hash of its config).

    Returns:
        The mean (N, 22) for all N predicted frames; NaN in the columns of a task without members.
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
    """Choose post-processing on ``select``, and apply it to the outputs for all predicted frames.

    ``select`` are the validation videos on which choices are made. The parameters with the highest
    scores there are chosen.

    Args:
        outputs: Outputs (N, 22) for the N predicted frames, before post-processing.
        frames: The predicted frames.
        steps: Names of the post-processing steps to use, such as smoothing; other steps are left
            out.

    Returns:
        The post-processed outputs (N, 22) and the chosen post-processing.
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
