"""Tests of the refit: each frame is predicted by the fold that held its video out."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mtl.dataset.annotations import read_file
from mtl.evaluation import metrics
from mtl.predictions.table import Predictions, outputs_of
from mtl.sequences.folds import cut_folds, fold_parts
from mtl.tasks import TASKS
from sweeps.fusion.refit import score_refit
from sweeps.fusion.report import refit_summary
from sweeps.planning.plan import divide
from tests.support.small_data import NAMES, make_dataset, make_listing

FOLDS = 4
MEMBERS = {"one": 2, "two": 1}


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    listing = make_listing()
    cut = cut_folds(listing, FOLDS)
    return SimpleNamespace(
        listing=listing,
        parts=divide(listing, 0.5, 3),
        dataset=make_dataset(tmp_path / "data", listing),
        folds=tuple(dict(fold_parts(cut, listing, k, FOLDS)) for k in range(FOLDS)),
    )


def fused(**changes: Any) -> dict[str, Any]:
    nothing = {"smoothing": {}, "bias": [], "thresholds": []}
    return {"members": dict.fromkeys(TASKS, MEMBERS), "postprocessing": nothing, **changes}


def train(folder: Path, plan: Any, missing: str = "") -> dict[tuple[str, int], np.ndarray]:
    """Write the predictions of each member in each fold, and those of the fused model.

    Args:
        folder: The run folder.
        plan: The plan with the folds.
        missing: Signature of a trial that is left out.

    Returns:
        Outputs for all listed frames, by member and fold.
    """
    listing = plan.listing
    exact = outputs_of(listing.values, np.ones(listing.mask.shape, bool))
    by_fold = {}
    for fold, parts in enumerate(plan.folds):
        for seed, member in enumerate(MEMBERS):
            random = np.random.default_rng([fold, seed])
            outputs = (exact + random.normal(scale=0.5, size=exact.shape)).astype(np.float32)
            by_fold[member, fold] = outputs
            rows = np.flatnonzero([parts[listing.names[v]] != "train" for v in listing.video])
            random.shuffle(rows)
            trial = folder / "trials" / f"{member}.fold{fold}of{FOLDS}"
            if trial.name == missing:
                continue
            trial.mkdir(parents=True)
            own = listing.video[rows], listing.frame[rows], listing.names, outputs[rows]
            Predictions(*own).save(trial / "predictions.parquet")
    (folder / "fusion").mkdir(parents=True)
    stored = Predictions(listing.video, listing.frame, listing.names, exact)
    stored.save(folder / "fusion" / "predictions.parquet")
    return by_fold


def mean(by_fold: dict[tuple[str, int], np.ndarray], fold: int) -> np.ndarray:
    return (2 * by_fold["one", fold].astype(float) + by_fold["two", fold]) / 3


def test_each_frame_is_predicted_by_models_that_held_its_video_out(plan, tmp_path):
    by_fold = train(tmp_path, plan)
    content = score_refit(tmp_path, plan, fused())
    stored = Predictions.load(tmp_path / "refit" / "predictions.parquet")
    assert stored.names == plan.listing.names
    for row, video in enumerate(plan.listing.video):
        held = [k for k, parts in enumerate(plan.folds) if parts[NAMES[video]] == "confirm"]
        folds = held or range(FOLDS)  # a test video is predicted by all folds
        expected = np.mean([mean(by_fold, fold)[row] for fold in folds], axis=0)
        np.testing.assert_allclose(stored.outputs[row], expected, atol=1e-5)
    assert content == json.loads((tmp_path / "refit" / "scores.json").read_text()) | content
    submission = read_file(tmp_path / "refit" / "submission.txt")
    assert {image.split("/")[0] for image in submission.images} == {"v8", "v9"}


def test_scores_are_pooled_over_the_frames_of_their_parts(plan, tmp_path):
    train(tmp_path, plan)
    content = score_refit(tmp_path, plan, fused())["out_of_fold"]
    outputs = Predictions.load(tmp_path / "refit" / "predictions.parquet").outputs
    part = np.array([plan.parts[name] for name in NAMES])[plan.listing.video]
    for name, parts in {
        "all": ["train", "select", "confirm"],
        "without_select": ["train", "confirm"],
        "confirm": ["confirm"],
    }.items():
        at = np.isin(part, parts)
        expected = metrics.scores(outputs[at], plan.listing.values[at], plan.listing.mask[at])
        shown = content[name]["refit"]
        assert {key: shown[key] for key in expected} == expected
        low, high = shown["interval"]["p_labelled"]
        assert low < shown["p_labelled"] < high
        assert content[name]["videos"] == sum(plan.parts[video] in parts for video in NAMES)


def test_the_fused_model_is_compared_on_confirm_after_the_same_post_processing(plan, tmp_path):
    train(tmp_path, plan)
    chosen = {"smoothing": {}, "bias": [9.0] + [0.0] * 7, "thresholds": []}
    content = score_refit(tmp_path, plan, fused(postprocessing=chosen))
    confirm = content["out_of_fold"]["confirm"]
    assert confirm["refit"]["f1_expression"] < confirm["refit_raw"]["f1_expression"]
    minus = content["refit_minus_fused"]
    at = np.array([plan.parts[name] == "confirm" for name in NAMES])[plan.listing.video]
    exact = outputs_of(plan.listing.values, np.ones(plan.listing.mask.shape, bool))
    best = metrics.scores(exact[at], plan.listing.values[at], plan.listing.mask[at])
    assert minus["ccc_valence"] == pytest.approx(
        confirm["refit"]["ccc_valence"] - best["ccc_valence"]
    )
    text = refit_summary(content)
    assert "| all labelled videos " in text
    assert "out of fold minus the sweep's fused model on confirm: -" in text


def test_without_one_fold_nothing_is_scored(plan, tmp_path):
    train(tmp_path, plan, missing=f"two.fold1of{FOLDS}")
    assert score_refit(tmp_path, plan, fused()) is None
    assert not (tmp_path / "refit").exists()


def test_without_test_videos_there_is_no_submission(plan, tmp_path):
    listing = plan.listing
    splits = tuple("train" if split == "test" else split for split in listing.splits)
    plan.listing = replace(listing, splits=splits)
    cut = cut_folds(plan.listing, FOLDS)
    plan.folds = tuple(dict(fold_parts(cut, plan.listing, k, FOLDS)) for k in range(FOLDS))
    plan.parts = divide(plan.listing, 0.5, 3)
    train(tmp_path, plan)
    assert score_refit(tmp_path, plan, fused())
    assert not (tmp_path / "refit" / "submission.txt").exists()
