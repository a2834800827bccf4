"""Fusion of a sweep: chosen on select, scored on confirm, written in the order of the list."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_data import NAMES, make_dataset, make_listing

from mtl import metrics
from mtl.affwild2 import read_file
from mtl.dataset import Dataset, Listing
from mtl.predictions import Predictions, outputs_of
from mtl.tasks import TASKS
from sweeps.fuse import Member, fuse_sweep
from sweeps.plan import divide
from sweeps.search_file import Fusion

ORDER = ("select", "confirm", "test")


class Sweep:
    """A run folder with trials that predict labels with noise, and what fuses them."""

    def __init__(self, tmp_path: Path, listing: Listing, confirm: float = 0.5) -> None:
        self.folder = tmp_path / "run"
        self.listing = listing
        self.dataset: Dataset = make_dataset(tmp_path / "data", listing)
        self.parts = divide(listing, confirm, 3)
        of_frame = np.array([self.parts[name] for name in NAMES])[listing.video]
        self.rows = np.concatenate([np.flatnonzero(of_frame == part) for part in ORDER])
        self.members: list[Member] = []

    def trial(self, name: str, score: float, noise: float = 0.0, without: str = "") -> np.ndarray:
        """A trial; ``noise`` away from the labels, and none of the task ``without``."""
        random = np.random.default_rng(len(self.members))
        values = self.listing.values[self.rows]
        outputs = outputs_of(values, np.ones(values.shape, bool))
        outputs = outputs + noise * random.normal(size=outputs.shape).astype(np.float32)
        outputs = outputs.astype(np.float32)
        if without:
            outputs[:, TASKS[without].outputs] = np.nan
        folder = self.folder / "trials" / name
        folder.mkdir(parents=True)
        video, frame = self.listing.video[self.rows], self.listing.frame[self.rows]
        predictions = Predictions(video, frame, self.listing.names, outputs)
        predictions.save(folder / "predictions.parquet")
        self.members.append(Member(name, score))
        return outputs

    def fuse(self) -> dict[str, Any]:
        return fuse_sweep(
            self.folder, self.dataset, self.listing, self.parts, self.members, Fusion(steps=5)
        )

    def images(self, *parts: str) -> list[str]:
        chosen = np.isin([self.parts[name] for name in NAMES], parts)[self.listing.video]
        return [
            f"{NAMES[video]}/{frame:05d}.jpg"
            for video, frame in zip(
                self.listing.video[chosen], self.listing.frame[chosen], strict=True
            )
        ]


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """All tasks labelled; videos listed so that the list's order is not that of their names."""
    return Sweep(tmp_path, make_listing())


def test_the_best_of_each_task_is_chosen_and_written_in_the_lists_order(sweep):
    sweep.trial("noisy", 2.0, noise=1.0)
    sweep.trial("true", 1.0)
    found = sweep.fuse()
    assert all(list(chosen) == ["true"] for chosen in found["members"].values())
    assert found["best_single"] == "noisy"  # by the trials' own scores
    for part in ("select", "confirm"):
        assert found[part]["fused_raw"]["ccc_valence"] == pytest.approx(1)
        assert found[part]["fused"]["f1_action_units"] == pytest.approx(1)
        assert found[part]["best_single_raw"]["ccc_valence"] < 0.9
    assert list(read_file(sweep.folder / "submission.txt").images) == sweep.images("test")
    validation = read_file(sweep.folder / "fusion" / "validation.txt")
    assert list(validation.images) == sweep.images("select", "confirm")
    assert validation.mask.all()
    assert json.loads((sweep.folder / "scores.json").read_text()) == json.loads(json.dumps(found))


def test_scores_are_those_of_the_parts_own_frames(sweep):
    outputs = sweep.trial("only", 1.0, noise=0.3)
    found = sweep.fuse()
    for part in ("select", "confirm"):
        here = np.array([sweep.parts[name] == part for name in NAMES])
        at = here[sweep.listing.video[sweep.rows]]
        rows = sweep.rows[at]
        expected = metrics.scores(outputs[at], sweep.listing.values[rows], sweep.listing.mask[rows])
        shown = found[part]["best_single_raw"]
        assert {key: shown[key] for key in expected} == expected
        low, high = shown["interval"]["p_labelled"]
        assert low <= high
    assert found["selected_on_the_scored_videos"] is False


def test_confirm_changes_no_choice(sweep):
    """Labels of confirm videos are turned upside down: only the scores of confirm may follow."""
    sweep.trial("one", 1.0, noise=0.3)
    sweep.trial("two", 1.1, noise=0.3)
    before = sweep.fuse()
    confirm = np.array([sweep.parts[name] == "confirm" for name in NAMES])[sweep.listing.video]
    sweep.listing.values[confirm, :2] *= -1
    after = sweep.fuse()
    for key in ("members", "postprocessing", "best_single", "select"):
        assert after[key] == before[key]
    assert after["confirm"]["fused"]["ccc_valence"] < 0 < before["confirm"]["fused"]["ccc_valence"]


def test_an_untrained_task_is_missing_in_the_submission(sweep):
    sweep.trial("one", 1.0, noise=0.1, without="action_units")
    found = sweep.fuse()
    assert "action_units" not in found["members"]
    assert found["confirm"]["fused"]["f1_action_units"] is None
    assert found["confirm"]["fused"]["p_mtl"] is None
    submission = read_file(sweep.folder / "submission.txt")
    assert not submission.mask[:, TASKS["action_units"].labels].any()
    assert submission.mask[:, :3].all()
    lines = (sweep.folder / "submission.txt").read_text().splitlines()[1:]
    assert all(line.endswith(",-1" * 12) for line in lines)


def test_a_trial_without_a_task_takes_part_in_the_others(sweep):
    sweep.trial("three", 3.0, noise=0.01, without="expression")
    sweep.trial("all", 1.0, noise=1.0)
    found = sweep.fuse()
    assert list(found["members"]["expression"]) == ["all"]
    assert "three" in found["members"]["valence"]
    # Its score is a sum over fewer tasks, which says nothing beside the other's.
    assert found["best_single"] == "all"


def test_without_confirm_videos_scores_say_so(tmp_path):
    sweep = Sweep(tmp_path, make_listing(), confirm=0.0)
    sweep.trial("one", 1.0, noise=0.1)
    found = sweep.fuse()
    assert found["confirm"] is None
    assert found["selected_on_the_scored_videos"] is True


def test_a_task_unlabelled_on_select_takes_the_best_trials_word(tmp_path):
    listing = make_listing()
    validation = (listing.video >= 4) & (listing.video < 8)
    listing.mask[validation, 2] = False
    sweep = Sweep(tmp_path, listing)
    sweep.trial("worse", 1.0, noise=0.1)
    sweep.trial("best", 2.0, noise=0.2)
    assert sweep.fuse()["members"]["expression"] == {"best": 1}


def test_the_ceiling_is_scored_on_the_same_frames_and_tasks(sweep):
    """Planted data carry their posterior's predictions: here the labels themselves."""
    sweep.trial("one", 1.0, noise=0.3, without="action_units")
    info = {**sweep.dataset.info, "extra": {"ceiling": {"p_mtl": 3.0}}}
    sweep.dataset = Dataset(sweep.dataset.address, info)
    listing = sweep.listing
    validation = np.isin([sweep.parts[name] for name in NAMES], ["select", "confirm"])
    rows = np.flatnonzero(validation[listing.video])[::-1]  # in an order of its own
    exact = outputs_of(listing.values[rows], np.ones((len(rows), 15), bool))
    predictions = Predictions(listing.video[rows], listing.frame[rows], listing.names, exact)
    predictions.save(Path(sweep.dataset.address) / "ceiling.parquet")
    fused = sweep.fuse()
    found = fused["ceiling"]
    for part in ("select", "confirm"):
        assert found[part]["ccc_valence"] == pytest.approx(1)
        assert found[part]["f1_action_units"] is None
        reached = found[part]["reached"]
        share = fused[part]["fused"]["p_labelled"] / found[part]["p_labelled"]
        assert reached["share"] == pytest.approx(share)
        assert reached["interval"][0] <= reached["share"] <= reached["interval"][1]
