"""Tests of a small finished sweep on Ray: its files, its output, and the command given again."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.trial import TrialState

from mtl.dataset import Dataset
from mtl.dataset.annotations import read_file
from mtl.errors import InputError
from mtl.predictions.submission import write_submission
from mtl.predictions.table import Predictions
from mtl.sequences.folds import select_videos
from mtl.tasks import TASKS
from sweeps import score, train
from sweeps.cluster.connection import connect
from sweeps.planning.compose import compose, signature
from sweeps.run import main
from tests.support.small_sweeps import (
    END_SECONDS,
    facts,
    recorded,
    scores,
    trial_folder,
    wait_until,
    written,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def run_folder(swept, monkeypatch) -> Path:
    monkeypatch.chdir(swept)
    return swept / "runs" / "whole"


def test_every_trial_ends_and_leaves_its_files(run_folder, planted):
    trials = recorded(run_folder)
    assert len(trials) == 4
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    configs = [compose(trial.user_attrs["overrides"]).sequence for trial in trials]
    assert len({(config.frames, config.frame_stride) for config in configs}) == 4
    assert {f.name for f in (run_folder / "trials").iterdir()} == {
        trial.user_attrs["signature"] for trial in trials
    }
    for trial in trials:
        folder = trial_folder(run_folder, trial)
        assert trial.user_attrs["signature"] == signature(
            compose(trial.user_attrs["overrides"]), planted.hash
        )
        assert {f.name for f in folder.iterdir()} == {
            "config.yaml",
            "predictions.parquet",
            "progress.csv",
            "scores.json",
            "weights",
        }
        rows = list(csv.DictReader((folder / "progress.csv").read_text().splitlines()))
        assert [int(row["epoch"]) for row in rows] == list(range(1, trial.last_step + 1))
        reported = [float(row["objective"]) for row in rows]
        assert list(trial.intermediate_values.values()) == reported
        assert scores(folder)["select"]["score"] == reported[-1]
        best = {int(rows[-1][f"best_epochs/{task}"]) for task in TASKS}
        assert {f.name for f in (folder / "weights").iterdir()} == {
            f"epoch_{epoch:03d}.safetensors" for epoch in best
        }


def test_the_predictions_of_a_trial_have_its_recorded_scores(run_folder, planted):
    listing = planted.listing()
    validation = [i for i, name in enumerate(listing.names) if listing.splits[i] == "validation"]
    parts = select_videos(
        [listing.names[i] for i in validation], [listing.subjects[i] for i in validation], 0.5, 3
    )
    place = {(v, f): i for i, (v, f) in enumerate(zip(listing.video, listing.frame, strict=True))}
    for trial in recorded(run_folder):
        folder = trial_folder(run_folder, trial)
        found = Predictions.load(folder / "predictions.parquet")
        assert len(found.frame) == (listing.split > 0).sum()
        assert np.isfinite(found.outputs).all()
        select = np.array([parts.get(found.names[v]) == "select" for v in found.video])
        rows = [place[key] for key in zip(found.video[select], found.frame[select], strict=True)]
        now = score.scores(found.outputs[select], listing.values[rows], listing.mask[rows])
        recorded_scores = scores(folder)["select"]
        assert now["ccc_valence"] == pytest.approx(recorded_scores["valence"], abs=1e-6)
        assert now["f1_expression"] == pytest.approx(recorded_scores["expression"], abs=1e-6)
        assert now["p_labelled"] == pytest.approx(recorded_scores["score"], abs=1e-6)


def test_a_trial_trained_alone_equals_the_trial_of_the_sweep(run_folder, planted, tmp_path):
    trial = next(trial for trial in recorded(run_folder) if trial.state == TrialState.COMPLETE)
    command = (trial_folder(run_folder, trial) / "config.yaml").read_text().splitlines()[0]
    words = shlex.split(command.partition("sweeps/train.py ")[2])
    before = torch.get_num_threads()
    try:
        assert train.main([*words, "--out", str(tmp_path / "alone")]) == 0
    finally:
        torch.set_num_threads(before)
    alone = Predictions.load(tmp_path / "alone" / "predictions.parquet")
    swept = Predictions.load(trial_folder(run_folder, trial) / "predictions.parquet")
    np.testing.assert_array_equal(alone.outputs, swept.outputs)
    both = [
        dict(scores(folder)) for folder in (tmp_path / "alone", trial_folder(run_folder, trial))
    ]
    for found in both:
        assert found["prediction"].pop("seconds") > 0
    assert both[0] == both[1]


def test_the_submission_lists_the_test_frames(run_folder, planted):
    listing = planted.listing()
    test = listing.split == 2
    images = [
        f"{listing.names[video]}/{frame:05d}.jpg"
        for video, frame in zip(listing.video[test], listing.frame[test], strict=True)
    ]
    submission = read_file(run_folder / "submission.txt")
    assert list(submission.images) == images
    assert submission.mask.all()
    lines = (run_folder / "submission.txt").read_text().splitlines()
    assert lines[0] == "image,valence,arousal,expression,aus"
    assert {len(line.split(",")) for line in lines[1:]} == {16}


def test_the_scores_of_the_sweep_equal_those_of_score_py(run_folder, planted, tmp_path, capsys):
    listing = planted.listing()
    sweep_scores = scores(run_folder)
    for part in ("select", "confirm"):
        videos = _videos_of(planted, part)
        rows = np.isin(np.array(listing.names)[listing.video], videos)
        images = [
            f"{listing.names[v]}/{f:05d}.jpg"
            for v, f in zip(listing.video[rows], listing.frame[rows], strict=True)
        ]
        truth = tmp_path / f"{part}.txt"
        write_submission(truth, images, listing.values[rows], listing.mask[rows])
        predictions = run_folder / "fusion" / "validation.txt"
        assert score.main(["--truth", str(truth), "--predictions", str(predictions)]) == 0
        found = json.loads(capsys.readouterr().out)
        for name in ("p_mtl", "p_labelled", "ccc_valence", "f1_expression", "f1_action_units"):
            assert found[name] == pytest.approx(sweep_scores[part]["fused"][name], abs=2e-4)
        assert found["frames"] == sweep_scores[part]["fused"]["frames"] == rows.sum()


def _videos_of(dataset: Dataset, part: str) -> list[str]:
    listing = dataset.listing()
    videos = [
        (name, subject)
        for name, split, subject in zip(
            listing.names, listing.splits, listing.subjects, strict=True
        )
        if split == "validation"
    ]
    names, subjects = zip(*videos, strict=True)
    parts = select_videos(names, subjects, 0.5, 3)
    return [name for name in names if parts[name] == part]


def test_the_output_reports_the_trials_and_the_paths_of_the_results(run_folder, swept):
    printed = (swept / "printed.txt").read_text()
    assert "sweep whole: 4 trials of up to 3 epochs in 1 study, 2 at once" in printed
    assert "Ray's dashboard: http://127.0.0.1:" in printed
    assert "optuna-dashboard runs/whole/study.journal" in printed
    assert printed.count(": started (") == 4
    assert printed.count("[4/4, ") == 1
    assert str(Path("runs/whole/submission.txt")) in printed
    report = (run_folder / "report" / "leaderboard.md").read_text()
    for trial in recorded(run_folder):
        assert trial.user_attrs["signature"] in report


def test_ray_lists_each_trial_under_its_name(run_folder, ray_address):
    from ray.util.state import list_tasks

    expected = set()
    for trial in recorded(run_folder):
        encoder = compose(trial.user_attrs["overrides"]).encoder.name
        expected.add(f"whole/{trial.number:04d} {encoder} linear share_encoder")
    assert len(expected) == 4
    with connect(ray_address) as cluster:

        def listed() -> set[tuple[str, str]]:
            # Listing by name, because Ray limits the number of tasks in one answer.
            tasks = [
                task
                for name in expected
                for task in list_tasks(address=cluster.dashboard, filters=[("name", "=", name)])
            ]
            return {(task.name, task.state) for task in tasks}

        wait_until(
            lambda: listed() == {(name, "FINISHED") for name in expected}, END_SECONDS, listed
        )


def test_the_same_command_again_trains_nothing(run_folder, capsys):
    record, files = facts(recorded(run_folder)), written(run_folder / "trials")
    # No cluster runs at this address: a finished sweep does not need one.
    assert main(["--space", "space.yaml", "--address", "127.0.0.1:1"]) == 0
    assert facts(recorded(run_folder)) == record
    assert written(run_folder / "trials") == files
    assert "4 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("optim.weight_decay=0.1", "fixed"),
        ("search.seed=4", "search"),
        ("pruner.min_epochs=2", "pruner"),
    ],
)
def test_another_space_in_the_same_folder_is_refused(run_folder, change, named):
    before = written(run_folder)
    with pytest.raises(InputError, match=f"another {named}.*name="):
        main(["--space", "space.yaml", change])
    assert written(run_folder) == before


def test_more_trials_extend_the_sweep(swept, ray_address, tmp_path, monkeypatch, capsys):
    shutil.copytree(swept, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    run_folder = Path("runs/whole")
    record, files = facts(recorded(run_folder)), written(run_folder / "trials")
    arguments = ["--space", "space.yaml", "--address", ray_address, "search.trials=6"]
    assert main(arguments) == 0
    after = recorded(run_folder)
    assert len(after) == 6
    assert facts(after)[:4] == record
    assert {name: t for name, t in written(run_folder / "trials").items() if name in files} == files
    assert "going on with runs/whole: " in capsys.readouterr().out
    assert not [trial for trial in after if trial.state == TrialState.RUNNING]
