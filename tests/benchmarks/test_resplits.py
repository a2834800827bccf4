"""Tests of the re-splits: subjects, labels that are held back, and scores on these labels."""

import importlib
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mtl.dataset import Dataset, Listing
from mtl.evaluation.metrics import scores
from mtl.predictions.table import Predictions, outputs_of
from tests.support.paths import ROOT

PROGRAMS = ROOT / "benchmarks"


@pytest.fixture
def resplits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PROGRAMS)
    return importlib.import_module("resplits")


@pytest.fixture
def listing(planted: Dataset) -> Listing:
    """Listing of 8 training, 5 validation and 3 test videos, one subject per video."""
    listing = planted.listing()
    return replace(listing, subjects=listing.names)


def by_split(splits: dict[str, str]) -> dict[str, set[str]]:
    """Return the names of the videos in each split."""
    return {
        split: {name for name, of_video in splits.items() if of_video == split}
        for split in ("train", "validation", "test")
    }


@pytest.mark.parametrize("split", range(4))
def test_labelled_videos_are_each_in_one_split(resplits, listing, split):
    found = by_split(resplits.draw_split(listing, split))
    assert [len(found[part]) for part in ("train", "validation", "test")] == [6, 5, 2]
    labelled = {n for n, old in zip(listing.names, listing.splits, strict=True) if old != "test"}
    assert set.union(*found.values()) == labelled


def test_splits_differ_from_each_other_and_are_reproducible(resplits, listing):
    drawn = [resplits.draw_split(listing, split) for split in range(4)]
    assert len({frozenset(by_split(one)["test"]) for one in drawn}) > 1
    assert [resplits.draw_split(listing, split) for split in range(4)] == drawn


def test_videos_of_a_subject_are_in_one_split(resplits, listing):
    subjects = tuple(f"person{place // 2}" for place in range(len(listing.names)))
    paired = replace(listing, subjects=subjects)
    for split in range(4):
        drawn = resplits.draw_split(paired, split)
        subject_of = dict(zip(paired.names, subjects, strict=True))
        pairs = {(subject_of[name], part) for name, part in drawn.items()}
        assert len(pairs) == len({subject_of[name] for name in drawn})
        sizes = [len(names) for names in by_split(drawn).values()]
        assert sizes[1] in (5, 6)  # a subject of two videos may exceed the wanted number by one
        assert sizes[2] in (2, 3)


def rows_of(listing: Listing, name: str) -> np.ndarray:
    return np.flatnonzero(listing.video == listing.names.index(name))


def test_held_back_videos_are_written_without_labels(resplits, planted, tmp_path):
    listing = planted.listing()
    drawn = resplits.draw_split(listing, 0)
    written = resplits.write_split(planted, 0, tmp_path / "split")
    found = written.listing()
    assert dict(zip(found.names, found.splits, strict=True)) == drawn
    for name, part in drawn.items():
        new, old = rows_of(found, name), rows_of(listing, name)
        assert found.frame[new].tolist() == listing.frame[old].tolist()
        if part == "test":
            assert not found.mask[new].any()
            assert not found.values[new].any()
            assert listing.mask[old].any()
        else:
            assert (found.mask[new] == listing.mask[old]).all()
            known = listing.mask[old]
            assert (found.values[new][known] == listing.values[old][known]).all()


def test_statistics_are_computed_on_the_new_training_frames(resplits, planted, tmp_path):
    written = resplits.write_split(planted, 0, tmp_path / "split")
    name = written.feature_sets()[0]
    index, listing = written.index(name), written.listing()
    train = {n for n, part in zip(listing.names, listing.splits, strict=True) if part == "train"}
    rows = []
    for place, video in enumerate(index.names):
        start, stop = map(int, index.starts[place : place + 2])
        listed = np.isin(index.frames[start:stop], listing.frame[rows_of(listing, video)])
        rows += [written.read(name, start, stop)[listed]] if video in train else []
    mean, _ = written.statistics(name)
    np.testing.assert_allclose(mean, np.concatenate(rows).astype(float).mean(axis=0), atol=1e-5)
    assert not np.allclose(mean, planted.statistics(name)[0], atol=1e-5)


def test_held_back_frames_are_scored_by_their_own_labels(resplits, listing):
    """Correct predictions get the best score in any order of frames and video names."""
    held = set(by_split(resplits.draw_split(listing, 0))["test"])
    order = np.random.default_rng(0).permutation(len(listing.frame))
    outputs = outputs_of(listing.values[order], np.ones_like(listing.mask))
    turned = np.arange(len(listing.names))[::-1]
    video = turned[listing.video[order]].astype(np.int32)
    names = listing.names[::-1]
    right = Predictions(video, listing.frame[order], names, outputs)
    found = resplits.score(right, listing, held)
    rows = np.flatnonzero(np.isin(listing.video, [listing.names.index(name) for name in held]))
    perfect = outputs_of(listing.values[rows], np.ones_like(listing.mask[rows]))
    best = scores(perfect, listing.values[rows], listing.mask[rows])["p_labelled"]
    assert found["p_labelled"] == pytest.approx(best)
    assert (found["tasks"], found["videos"]) == (4, 2)
    elsewhere = ~np.isin(np.array(names)[video], list(held))
    wrong = replace(right, outputs=np.where(elsewhere[:, None], np.float32(0), outputs))
    assert resplits.score(wrong, listing, held) == found


def result(split: int, inside: bool, errors_apart: float) -> dict[str, Any]:
    part = {"p_labelled": 0.5, "error": 0.1, "tasks": 4, "videos": 9}
    return {
        "split": split,
        "select": 0.75,
        "confirm": {**part, "interval": [0.25, 0.625]},
        "held_back": {**part, "p_labelled": 0.375},
        "inside": inside,
        "errors_apart": errors_apart,
        "seconds": 100,
    }


def test_the_summary_has_counts_and_means(resplits):
    results = [result(0, True, 0.1), result(1, False, 1.9), result(2, False, 2.5)]
    counted = resplits.summary(results)
    assert (counted["splits"], counted["inside"], counted["within_errors"]) == (3, 1, 2)
    assert (counted["mean_confirm"], counted["mean_held_back"]) == (0.5, 0.375)
    assert counted["mean_width"] == 0.375
    row = "| 1 | 0.750 | 0.500 [0.250, 0.625] | 0.375 | no | 1.90 | 4, 4 | 100 |"
    assert row in resplits.table(results).splitlines()


def test_a_finished_split_is_not_run_again(resplits, planted, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(resplits, "sweep", lambda *given: ran.append(given[2]) or tmp_path)
    monkeypatch.setattr(resplits, "compare", lambda *_: result(0, True, 0.1))
    first = resplits.run_split(planted, 0, 3, tmp_path)
    assert resplits.run_split(planted, 0, 3, tmp_path) == first
    assert ran == [3]
    assert not (tmp_path / "datasets" / "resplit_0").exists()
    resplits.run_split(planted, 0, 4, tmp_path)
    assert ran == [3, 4]
