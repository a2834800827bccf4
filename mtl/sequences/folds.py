"""Dividing videos, by subject, into what is selected on and what is only reported.

Whatever is chosen on data must not be scored on the same data: epochs, pruning, sampling,
post-processing and fusion see ``select``; ``confirm`` is read when results are written. The
validation videos are divided so once, for a sweep; or they and the training videos are cut into
folds, each of which is held out once.
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

Part = Literal["select", "confirm"]


def select_videos(
    names: Sequence[str], subjects: Sequence[str], fraction_confirm: float, seed: int
) -> dict[str, Part]:
    """Divide validation videos into ``select`` and ``confirm``, whole subjects at a time.

    Args:
        names: The validation videos.
        subjects: The subject of each.
        fraction_confirm: Share of the videos that goes to ``confirm``, in [0, 1); 0 puts all
            of them into ``select``, and every score is then one on the selected videos.
        seed: Of the draw; the same seed divides the same videos alike in any order.

    Returns:
        The part of each video.

    Raises:
        InputError: If there are too few subjects for both parts.
    """
    if fraction_confirm == 0:
        return dict.fromkeys(names, "select")
    groups = sorted(set(subjects))
    if len(groups) < 2:
        raise InputError(
            f"search.confirm = {fraction_confirm} needs validation videos of at least 2 subjects, "
            f"but there are {len(groups)}: set search.confirm=0 to select and score on the same"
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
    """Cut the training and validation videos into folds, whole subjects at a time.

    Each fold shall hold the same share of the videos, of each task's labelled frames and of the
    frames of each expression and of each unit that is on, the classes of a task weighing together
    as much as its labelled frames. The subjects, largest share first, go each to the fold that
    holds least of what the subject has: so the sum of the folds' squared shares grows least.

    Args:
        listing: Whose videos; those of the test split are in no fold.
        folds: How many, 3 at least: one is held out, one is selected on, the others train.

    Returns:
        The fold of each video, from 0; the same in whatever order the videos are listed.

    Raises:
        InputError: If there are fewer than 3 folds or than subjects.
    """
    cut = [place for place, split in enumerate(listing.splits) if split != "test"]
    subjects = sorted({listing.subjects[place] for place in cut})
    if folds < 3:
        raise InputError(
            f"refit.folds = {folds} leaves no fold to train on beside the one held out and the one "
            "selected on: set 3 or more"
        )
    if len(subjects) < folds:
        raise InputError(
            f"refit.folds = {folds} needs training and validation videos of as many subjects, but "
            f"there are {len(subjects)}: set refit.folds to "
            f"{f'{len(subjects)} or fewer' if len(subjects) >= 3 else '0'}"
        )
    number = {subject: place for place, subject in enumerate(subjects)}
    group = np.array([number[listing.subjects[place]] for place in cut])
    shares = _shares(_coverage(listing, np.array(cut), group))
    fold_of = _spread(shares, folds)
    return {listing.names[place]: int(fold_of[own]) for place, own in zip(cut, group, strict=True)}


def fold_parts(
    folds_of: Mapping[str, int], listing: Listing, k: int, folds: int
) -> dict[str, Literal["train", "select", "confirm", "test"]]:
    """The part of each video where fold ``k`` is held out as ``confirm``.

    Epochs are chosen on ``select``, the fold that follows; the other folds train, and what is in
    no fold is ``test``.
    """
    parts: dict[int, Literal["select", "confirm"]] = {k: "confirm", (k + 1) % folds: "select"}
    return {
        name: parts.get(folds_of[name], "train") if name in folds_of else "test"
        for name in listing.names
    }


def with_splits(listing: Listing, parts: Mapping[str, str]) -> Listing:
    """The listing with the splits that ``fold_parts`` amounts to."""
    split = {"select": "validation", "confirm": "validation"}
    return replace(
        listing, splits=tuple(split.get(parts[name], parts[name]) for name in listing.names)
    )


def _coverage(
    listing: Listing, cut: Int[np.ndarray, " V"], group: Int[np.ndarray, " V"]
) -> list[Int[np.ndarray, "S _K"]]:
    """What each subject has, alike things together: the videos, the labelled frames of each task,
    the frames of each of its classes.
    """
    subjects = int(group.max()) + 1
    of_video = np.full(len(listing.names), -1)
    of_video[cut] = group
    kept = np.flatnonzero(of_video[listing.video] >= 0)
    of_row = of_video[listing.video[kept]]
    found = [np.bincount(group, minlength=subjects)[:, None]]
    for task in TASKS.values():
        values, mask = listing.values[kept, task.labels], listing.mask[kept, task.labels]
        kinds = [mask.any(axis=1, keepdims=True)]
        if task.kind != "regression":
            kinds.append(label_indicators(task, values, mask))
        for kind in kinds:
            counts = np.zeros((subjects, kind.shape[1]), int)
            np.add.at(counts, of_row, kind)
            found.append(counts)
    return found


def _shares(coverage: Sequence[Int[np.ndarray, "S _K"]]) -> Float[np.ndarray, "S K"]:
    """Of all that there is of each thing, such that squared shares of alike things weigh 1."""
    shares = [
        counts / np.maximum(counts.sum(axis=0), 1) / np.sqrt(counts.shape[1]) for counts in coverage
    ]
    return np.concatenate(shares, axis=1)


def _spread(shares: Float[np.ndarray, "S K"], folds: int) -> Int[np.ndarray, " S"]:
    """The fold of each subject; an empty fold is the first choice, so that none stays empty."""
    held = np.zeros((folds, shares.shape[1]))
    fold_of = np.zeros(len(shares), int)
    for subject in np.argsort(-shares.sum(axis=1).round(12), kind="stable"):
        in_common = (held * shares[subject]).sum(axis=1).round(12)
        fold = np.lexsort((held.sum(axis=1).round(12), in_common))[0]
        fold_of[subject] = fold
        held[fold] += shares[subject]
    return fold_of
