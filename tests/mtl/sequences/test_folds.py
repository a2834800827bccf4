"""Division of videos into parts and folds by whole subjects."""

from dataclasses import replace

import numpy as np
import pytest

from mtl.dataset import SPLITS, Listing
from mtl.errors import InputError
from mtl.sequences.folds import cut_folds, fold_parts, select_videos
from mtl.tasks import TASKS

# 20 videos of 8 subjects: two with 5, two with 3, four with 1.
SUBJECTS = [s for s, n in zip("abcdefgh", (5, 5, 3, 3, 1, 1, 1, 1), strict=True) for _ in range(n)]
NAMES = [f"{subject}{place}" for place, subject in enumerate(SUBJECTS)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.8, 0.99])
def test_subjects_stay_together_and_both_parts_have_some(fraction: float, seed: int) -> None:
    parts = select_videos(NAMES, SUBJECTS, fraction, seed)
    assert list(parts) == NAMES
    by_part = {
        part: {s for n, s in zip(NAMES, SUBJECTS, strict=True) if parts[n] == part}
        for part in ("select", "confirm")
    }
    assert by_part["select"]
    assert by_part["confirm"]
    assert not by_part["select"] & by_part["confirm"]


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_the_share_of_confirm_is_close_to_the_fraction(fraction: float) -> None:
    """The share is off by at most half of the videos of the largest subject."""
    for seed in range(20):
        parts = list(select_videos(NAMES, SUBJECTS, fraction, seed).values())
        assert abs(parts.count("confirm") - fraction * len(NAMES)) <= 2.5


def test_parts_depend_on_the_seed_not_on_the_order() -> None:
    parts = select_videos(NAMES, SUBJECTS, 0.5, 3)
    assert select_videos(NAMES[::-1], SUBJECTS[::-1], 0.5, 3) == parts
    assert any(select_videos(NAMES, SUBJECTS, 0.5, seed) != parts for seed in range(5))


def test_fraction_zero_puts_all_videos_into_select() -> None:
    assert set(select_videos(NAMES, SUBJECTS, 0.0, 3).values()) == {"select"}
    assert select_videos(["only"], ["one"], 0.0, 3) == {"only": "select"}


def test_two_subjects_are_divided_one_to_each_part() -> None:
    for fraction in (0.1, 0.5, 0.9):
        parts = select_videos(["x", "y", "z"], ["a", "b", "b"], fraction, 0)
        assert set(parts.values()) == {"select", "confirm"}
        assert parts["y"] == parts["z"]


@pytest.mark.parametrize("subjects", [[], ["a", "a"]])
def test_one_subject_cannot_be_divided(subjects: list[str]) -> None:
    names = [f"video{place}" for place in range(len(subjects))]
    with pytest.raises(InputError, match=r"search.confirm = 0.5 .*at least 2 .*search.confirm=0"):
        select_videos(names, subjects, 0.5, 0)


FOLDS = 6
EXPRESSION_SHARES = (0.3, 0.05, 0.04, 0.04, 0.2, 0.1, 0.07, 0.2)


def skewed(seed: int, subjects: int = 60) -> Listing:
    """Return a listing of videos with unequal lengths and skewed labels.

    Each subject has up to three videos. A video has labels of some tasks only, one expression most
    of the time, and rarely any active action unit.
    """
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(subjects), random.integers(1, 4, subjects))
    owner = random.permutation(owner)
    splits = tuple(
        SPLITS[place] for place in np.searchsorted((0.6, 0.85), np.linspace(0, 1, len(owner)))
    )
    lengths = np.maximum(3, random.lognormal(3.5, 1, len(owner))).astype(int)
    video = np.repeat(np.arange(len(owner), dtype=np.int32), lengths)
    frame = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    main = random.choice(8, len(owner), p=EXPRESSION_SHARES)
    other = random.choice(8, len(video), p=EXPRESSION_SHARES)
    values = random.uniform(-1, 1, (len(video), 15)).astype(np.float32)
    values[:, 2] = np.where(random.random(len(video)) < 0.7, main[video], other)
    values[:, 3:] = random.random((len(video), 12)) < random.beta(0.3, 1.5, (len(owner), 12))[video]
    mask = np.zeros(values.shape, bool)
    for task in TASKS.values():
        mask[:, task.labels] = (random.random(len(owner)) < 0.6)[video][:, None]
    names = tuple(f"video{place:03d}" for place in range(len(owner)))
    people = tuple(f"person{place:02d}" for place in owner)
    return Listing(names, splits, people, video, frame, values * mask, mask)


def reordered(listing: Listing) -> Listing:
    """Return the listing with its videos and frames in another order."""
    order = np.random.default_rng(1).permutation(len(listing.names))
    columns = (listing.names, listing.splits, listing.subjects)
    names, splits, subjects = (tuple(column[place] for place in order) for column in columns)
    rows = np.random.default_rng(2).permutation(len(listing.video))
    place = np.argsort(order).astype(np.int32)
    return Listing(
        names,
        splits,
        subjects,
        place[listing.video[rows]],
        listing.frame[rows],
        listing.values[rows],
        listing.mask[rows],
    )


def shares(listing: Listing, folds_of: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of the frames that each fold holds.

    Returns:
        Shares of the labelled frames of each task, (folds, 4), and of the frames of each expression
        and active action unit, (folds, 20).
    """
    fold = np.array([folds_of.get(name, -1) for name in listing.names])[listing.video]
    values, mask = listing.values, listing.mask
    labelled = [mask[:, task.labels].any(axis=1) for task in TASKS.values()]
    classes = [mask[:, 2] & (values[:, 2] == number) for number in range(8)]
    classes += [mask[:, column] & (values[:, column] == 1) for column in range(3, 15)]
    in_fold = [fold == k for k in range(FOLDS)]
    tasks, kinds = (
        np.array(
            [
                [(kind & inside).sum() / (kind & (fold >= 0)).sum() for kind in some]
                for inside in in_fold
            ]
        )
        for some in (labelled, classes)
    )
    return tasks, kinds


@pytest.mark.parametrize("seed", range(5))
def test_each_video_is_in_one_fold_with_its_subject(seed: int) -> None:
    listing = skewed(seed)
    folds_of = cut_folds(listing, FOLDS)
    split_of = dict(zip(listing.names, listing.splits, strict=True))
    assert set(folds_of) == {name for name, split in split_of.items() if split != "test"}
    assert set(folds_of.values()) == set(range(FOLDS))
    subject_of = dict(zip(listing.names, listing.subjects, strict=True))
    pairs = {(subject_of[name], fold) for name, fold in folds_of.items()}
    assert len(pairs) == len({subject for subject, _ in pairs})


def test_folds_do_not_depend_on_the_order_of_videos() -> None:
    listing = skewed(0)
    folds_of = cut_folds(listing, FOLDS)
    assert cut_folds(listing, FOLDS) == folds_of
    assert cut_folds(reordered(listing), FOLDS) == folds_of


@pytest.mark.parametrize("seed", range(5))
def test_folds_are_balanced(seed: int) -> None:
    """A fold holds a sixth of each task's labelled frames, within the largest subject's share."""
    listing = skewed(seed)
    folds_of = cut_folds(listing, FOLDS)
    tasks, kinds = shares(listing, folds_of)
    kept = np.array([name in folds_of for name in listing.names])[listing.video]
    owner = np.unique(np.array(listing.subjects), return_inverse=True)[1][listing.video]
    for place, task in enumerate(TASKS.values()):
        labelled = listing.mask[:, task.labels].any(axis=1) & kept
        largest = np.bincount(owner[labelled]).max() / labelled.sum()
        assert np.abs(tasks[:, place] - 1 / FOLDS).max() <= largest
    random = np.random.default_rng(seed)
    people = sorted(
        {s for s, p in zip(listing.subjects, listing.splits, strict=True) if p != "test"}
    )
    off_tasks, off_kinds = [], []
    for _ in range(50):
        drawn = dict(zip(people, random.permutation(len(people)) % FOLDS, strict=True))
        subject_of = dict(zip(listing.names, listing.subjects, strict=True))
        others = shares(listing, {name: int(drawn[subject_of[name]]) for name in folds_of})
        off_tasks.append(np.abs(others[0] - 1 / FOLDS).mean())
        off_kinds.append(np.abs(others[1] - 1 / FOLDS).mean())
    assert np.abs(tasks - 1 / FOLDS).mean() < 0.5 * np.mean(off_tasks)
    assert np.abs(kinds - 1 / FOLDS).mean() < 0.85 * np.mean(off_kinds)


def test_unlabelled_folds_have_equal_numbers_of_videos() -> None:
    listing = skewed(0)
    folds_of = cut_folds(replace(listing, mask=np.zeros_like(listing.mask)), FOLDS)
    counts = np.bincount(list(folds_of.values()), minlength=FOLDS)
    assert counts.max() - counts.min() <= 1


def test_as_many_folds_as_subjects_hold_one_subject_each() -> None:
    listing = skewed(0)
    subject_of = dict(zip(listing.names, listing.subjects, strict=True))
    known = cut_folds(listing, FOLDS)
    people = len({subject_of[name] for name in known})
    folds_of = cut_folds(listing, people)
    assert len(set(folds_of.values())) == people


def test_too_few_subjects_are_refused() -> None:
    listing = skewed(0, subjects=8)
    few = replace(listing, subjects=tuple("abcd"[i % 4] for i in range(len(listing.names))))
    assert set(cut_folds(few, 4).values()) == set(range(4))
    with pytest.raises(InputError, match=r"refit.folds = 6 .* there are 4: .* 4 or fewer"):
        cut_folds(few, FOLDS)
    with pytest.raises(InputError, match=r"refit.folds = 6 .* there are 2: set refit.folds to 0"):
        cut_folds(replace(few, subjects=tuple("ab"[s in "cd"] for s in few.subjects)), FOLDS)
    with pytest.raises(InputError, match=r"refit.folds = 2 .*set 3 or more"):
        cut_folds(few, 2)


def test_each_fold_is_held_out_once_and_selects_once() -> None:
    listing = skewed(0)
    folds_of = cut_folds(listing, FOLDS)
    split_of = dict(zip(listing.names, listing.splits, strict=True))
    for k in range(FOLDS):
        parts = fold_parts(folds_of, listing, k, FOLDS)
        assert list(parts) == list(listing.names)
        for name, part in parts.items():
            if split_of[name] == "test":
                assert part == "test"
            else:
                assert part == {k: "confirm", (k + 1) % FOLDS: "select"}.get(
                    folds_of[name], "train"
                )
