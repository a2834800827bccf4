"""Division of videos, by subject, into splits for training, for choices and for final scores.

A choice must not be scored on the data that it was made on. A sweep therefore divides the
validation videos once: epochs, pruning, sampling, post-processing and fusion are decided on the
``select`` videos, and the ``confirm`` videos are held back for the final scores. Alternatively,
training and validation videos together are divided into folds, and each fold is held out once.

Shapes: V videos, S subjects, K columns of counts (videos, labelled frames, frames of a class).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from mtl.dataset import Listing
from mtl.errors import InputError
from mtl.evaluation.metrics import label_indicators
from mtl.tasks import TASKS

PartName = Literal["select", "confirm"]
MIN_SUBJECTS = 2
"""Smallest number of subjects that can be divided into ``select`` and ``confirm`` videos."""
MIN_FOLDS = 3
"""Smallest number of folds: one held out, one to choose epochs on, at least one to train on."""
TIE_DECIMALS = 12
"""Decimals to which sums are rounded before a comparison, so that equal sums compare as equal."""


def select_videos(
    names: Sequence[str], subjects: Sequence[str], fraction_confirm: float, seed: int
) -> dict[str, PartName]:
    """Divide validation videos at random into two sets of whole subjects.

    Choices (epochs, pruning, post-processing, fusion) are made on the ``select`` videos; the
    ``confirm`` videos are held back for the final scores.

    Args:
        names: Names of the validation videos.
        subjects: Subject of each video.
        fraction_confirm: Share of the videos that goes to ``confirm``, in [0, 1). With 0 all
            videos go to ``select``, so the final scores are of the videos that choices are made on.
        seed: Seed of the random division; the result does not depend on the order of the videos.

    Returns:
        The value ``select`` or ``confirm`` for each video, by the video's name.

    Raises:
        InputError: If there are fewer than ``MIN_SUBJECTS`` subjects.
    """
    if fraction_confirm == 0:
        return dict.fromkeys(names, "select")
    groups = sorted(set(subjects))
    if len(groups) < MIN_SUBJECTS:
        raise InputError(
            f"search.confirm = {fraction_confirm} needs validation videos of at least "
            f"{MIN_SUBJECTS} subjects, but there are {len(groups)}: set search.confirm=0 to select "
            "and score on the same videos"
        )
    sizes = {group: list(subjects).count(group) for group in groups}
    target = fraction_confirm * len(names)
    confirm: set[str] = set()
    taken = 0
    for index in np.random.default_rng(seed).permutation(len(groups)):
        group = groups[index]
        closer = abs(taken + sizes[group] - target) <= abs(taken - target)
        if closer and len(confirm) < len(groups) - 1:
            confirm.add(group)
            taken += sizes[group]
    if not confirm:
        confirm.add(min(groups, key=lambda group: (sizes[group], group)))
    return {
        name: "confirm" if subject in confirm else "select"
        for name, subject in zip(names, subjects, strict=True)
    }


def cut_folds(listing: Listing, folds: int) -> dict[str, int]:
    """Divide the training and validation videos into folds, by whole subjects.

    The folds are balanced: each should hold the same share of the videos, of each task's labelled
    frames, and of the frames of each expression and of each active action unit. All classes of a
    task together count as much as its labelled frames. A greedy algorithm takes the subjects with
    the largest shares first and adds each to the fold for which the sum of squared shares of all
    folds grows least.

    Args:
        listing: Frames and labels of all videos; videos of the test split are in no fold.
        folds: Number of folds, at least ``MIN_FOLDS``.

    Returns:
        The number of each video's fold, from 0, by the video's name; it does not depend on the
        order of the videos.

    Raises:
        InputError: If there are fewer than ``MIN_FOLDS`` folds, or fewer subjects than folds.
    """
    kept = [video for video, split in enumerate(listing.splits) if split != "test"]
    subjects = sorted({listing.subjects[video] for video in kept})
    if folds < MIN_FOLDS:
        raise InputError(
            f"refit.folds = {folds} leaves no fold to train on, because one is held out and one is "
            f"selected on: set {MIN_FOLDS} or more"
        )
    if len(subjects) < folds:
        raise InputError(
            f"refit.folds = {folds} needs training and validation videos of at least {folds} "
            f"subjects, but there are {len(subjects)}: set refit.folds to "
            f"{f'{len(subjects)} or fewer' if len(subjects) >= MIN_FOLDS else '0'}"
        )
    subject_index = {subject: index for index, subject in enumerate(subjects)}
    subject_of = np.array([subject_index[listing.subjects[video]] for video in kept])
    shares = _scaled_shares(_counts_by_subject(listing, np.array(kept), subject_of))
    fold_of = _assign_folds(shares, folds)
    return {
        listing.names[video]: int(fold_of[subject])
        for video, subject in zip(kept, subject_of, strict=True)
    }


def fold_parts(
    folds_of: Mapping[str, int], listing: Listing, k: int, folds: int
) -> dict[str, Literal["train", "select", "confirm", "test"]]:
    """Return the part of each video (train, select, confirm or test) if one fold is held out.

    Args:
        folds_of: Number of each video's fold, from 0, by the video's name.
        listing: Frames and labels of all videos.
        k: Number of the fold that is held out.
        folds: Number of folds.

    Returns:
        The part by the video's name: ``confirm`` (held out for the scores) in fold ``k``,
        ``select`` (epochs are chosen on it) in fold ``(k + 1) % folds``, ``train`` in the other
        folds, and ``test`` for a video in no fold.
    """
    parts: dict[int, Literal["select", "confirm"]] = {k: "confirm", (k + 1) % folds: "select"}
    return {
        name: parts.get(folds_of[name], "train") if name in folds_of else "test"
        for name in listing.names
    }


def with_splits(listing: Listing, parts: Mapping[str, str]) -> Listing:
    """Return a copy of a listing in which the videos have other splits.

    Args:
        listing: Frames and labels of all videos.
        parts: New split of each video, by name: ``train``, ``select``, ``confirm`` or ``test``;
            ``select`` and ``confirm`` videos both become ``validation`` videos.
    """
    split_of = {"select": "validation", "confirm": "validation"}
    return replace(
        listing, splits=tuple(split_of.get(parts[name], parts[name]) for name in listing.names)
    )


def _counts_by_subject(
    listing: Listing, videos: Int[np.ndarray, " V"], subject_of: Int[np.ndarray, " V"]
) -> list[Int[np.ndarray, "S _K"]]:
    """Count videos, labelled frames of each task and frames of each class, for every subject.

    Args:
        listing: Frames and labels of all videos.
        videos: Indices of the videos to count, (V,).
        subject_of: Index of the subject of each of these videos, (V,).

    Returns:
        A list of arrays of counts. The first array counts the videos, (subjects, 1). For each task
        an array with the numbers of labelled frames, (subjects, 1), follows, and for a
        classification task also an array with the numbers of frames of each class,
        (subjects, classes).
    """
    subjects = int(subject_of.max()) + 1
    of_video = np.full(len(listing.names), -1)
    of_video[videos] = subject_of
    rows = np.flatnonzero(of_video[listing.video] >= 0)
    of_row = of_video[listing.video[rows]]
    groups = [np.bincount(subject_of, minlength=subjects)[:, None]]
    for task in TASKS.values():
        values, mask = listing.values[rows, task.labels], listing.mask[rows, task.labels]
        indicators = [mask.any(axis=1, keepdims=True)]
        if task.kind != "regression":
            indicators.append(label_indicators(task, values, mask))
        for indicator in indicators:
            counts = np.zeros((subjects, indicator.shape[1]), int)
            np.add.at(counts, of_row, indicator)
            groups.append(counts)
    return groups


def _scaled_shares(groups: Sequence[Int[np.ndarray, "S _K"]]) -> Float[np.ndarray, "S K"]:
    """Convert counts to each subject's shares of the totals, and concatenate the columns.

    The shares are divided by sqrt(columns of their array), so that in a sum of squared shares an
    array with many columns weighs no more than one with a single column.

    Args:
        groups: Arrays of counts, (subjects, columns) each.
    """
    shares = [
        counts / np.maximum(counts.sum(axis=0), 1) / np.sqrt(counts.shape[1]) for counts in groups
    ]
    return np.concatenate(shares, axis=1)


def _assign_folds(shares: Float[np.ndarray, "S K"], folds: int) -> Int[np.ndarray, " S"]:
    """Return the fold of each subject, chosen greedily so that the folds have similar shares.

    An empty fold is preferred, so that none stays empty.

    Args:
        shares: Scaled share of each subject in each count to balance, (subjects, counts).
        folds: Number of folds.
    """
    fold_shares = np.zeros((folds, shares.shape[1]))
    fold_of = np.zeros(len(shares), int)
    for subject in np.argsort(-shares.sum(axis=1).round(TIE_DECIMALS), kind="stable"):
        overlap = (fold_shares * shares[subject]).sum(axis=1).round(TIE_DECIMALS)
        fold = np.lexsort((fold_shares.sum(axis=1).round(TIE_DECIMALS), overlap))[0]
        fold_of[subject] = fold
        fold_shares[fold] += shares[subject]
    return fold_of
