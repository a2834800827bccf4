"""Disk space that a plan needs: an upper bound, and its lines in the description."""

import math
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save

from mtl.build_model import build_model
from mtl.predictions.table import Predictions
from mtl.tasks import OUTPUT_COLUMNS, TASKS
from mtl.whole_files import write_atomically
from sweeps import train
from sweeps.planning.compose import compose
from sweeps.planning.disk import describe_disk, disk_need, planned_need, trial_bytes
from sweeps.planning.plan import Plan, make_plan
from sweeps.storage import disk_space, trial_folder
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study import Refit
from tests.support.small_data import FRAMES, NAMES, WIDTH, make_dataset, make_listing, search_file

Usage = namedtuple("Usage", "free")


def described(plan: Plan, running: int, folder: Path, **changes: int) -> str:
    """Return the plan's lines on disk space, of a need with these changes."""
    return describe_disk(plan, running, folder, replace(planned_need(plan, folder), **changes))


def with_limit(plan: Plan, disk_gb: float | str | None) -> Plan:
    """Return the plan with another ``budget.disk_gb``."""
    budget = plan.file.budget.model_copy(update={"disk_gb": disk_gb})
    return replace(plan, file=plan.file.model_copy(update={"budget": budget}))


@pytest.fixture
def plan(tmp_path) -> Plan:
    """Plan of 40 trials of 3 epochs, of models with 8 or 64 hidden units."""
    file = search_file(
        tmp_path,
        "search.trials=40",
        fixed={"training.epochs": 3},
        space={"encoder.hidden": {"values": [8, 64]}},
    )
    return make_plan(file, make_dataset(tmp_path / "data"))


def test_the_need_covers_the_files_that_trials_write(plan, tmp_path):
    need = disk_need(plan)
    assert (need.trials, need.kept) == (40, 40)
    largest = build_model(compose(["encoder.hidden=64"]), WIDTH, tuple(TASKS))
    weights = len(save(dict(largest.state_dict())))
    assert 0.95 < need.weights_bytes / (40 * 3 * weights) < 1.01  # three epochs, fewer than tasks
    assert need.running_bytes > 2 * 3 * 0.95 * weights
    listing = make_listing()
    predicted = [plan.parts[NAMES[video]] != "train" for video in listing.video]
    rows = sum(predicted)
    outputs = listing.values[predicted].repeat(2, axis=1)[:, : len(OUTPUT_COLUMNS)]
    table = Predictions(listing.video[predicted], listing.frame[predicted], NAMES, outputs)
    table.save(tmp_path / "predictions.parquet")
    written = (tmp_path / "predictions.parquet").stat().st_size
    assert need.predictions_bytes > 40 * written
    assert need.predictions_bytes == 40 * (rows * 24 * 4 + 100_000)


def test_trials_with_new_seeds_and_on_folds_count(tmp_path):
    file = search_file(
        tmp_path,
        "search.trials=300",
        "fusion.steps=10",
        "fixed.encoder.hidden=8",
        compare={"by": ["encoder"], "seeds": 2},
        refit={"folds": 4},
        space={"encoder": {"values": ["gru", "lstm"]}},
    )
    need = disk_need(make_plan(file, make_dataset(tmp_path / "data")))
    assert need.kept == 4 * 25
    assert need.trials == 300 + 2 * 2 + 4 * 4 * 10


def test_a_refit_predicts_the_videos_of_its_fold(tmp_path):
    plan = make_plan(search_file(tmp_path, refit={"folds": 3}), make_dataset(tmp_path / "data"))
    none = disk_need(replace(plan, folds=()))
    need = disk_need(plan)
    refits = need.trials - none.trials
    frames = [
        sum(parts[NAMES[video]] != "train" for video in plan.listing.video) for parts in plan.folds
    ]
    more = need.predictions_bytes - none.predictions_bytes
    assert more == refits * (max(frames) * 24 * 4 + 100_000)
    assert none.predictions_bytes != none.trials * (max(frames) * 24 * 4 + 100_000)


def test_the_largest_model_counts_even_if_it_is_not_sampled(tmp_path):
    """In 50 draws of eight parameters the largest values never come together."""
    space = {
        "encoder": {
            "choice": {
                "gru": {"encoder.layers": {"min": 1, "max": 6}},
                "transformer": {
                    "encoder.layers": {"min": 1, "max": 4},
                    "encoder.heads": {"values": [2, 3]},
                },
            }
        },
        "encoder.hidden": {"values": [12, 240, 36, 48, 60, 72, 84, 96]},
        "head": {"choice": {"mlp": {"head.widths": {"values": [[64, 64], [16]]}}, "linear": {}}},
        "framework": {"values": ["single_task", "share_encoder"]},
    }
    file = search_file(tmp_path, fixed={"training.epochs": 3}, space=space)
    plan = make_plan(file, make_dataset(tmp_path / "data"))
    at_most = ["encoder.hidden=240", "framework=single_task", "head=mlp", "head.widths=[64,64]"]
    sizes = [
        sum(
            p.numel()
            for p in build_model(compose([*at_most, *more]), WIDTH, tuple(TASKS)).parameters()
        )
        for more in (
            ["encoder=gru", "encoder.layers=6"],
            ["encoder=transformer", "encoder.layers=4"],
        )
    ]
    assert plan.parameters[1] == max(sizes)
    assert plan.parameters[1] > max(sized.parameters for sized in plan.sampled)


def test_weights_in_double_precision_take_twice_the_space(plan, tmp_path):
    (tmp_path / "double").mkdir()
    file = search_file(
        tmp_path / "double",
        "search.trials=40",
        fixed={"training.epochs": 3, "training.precision": "float64"},
        space={"encoder.hidden": {"values": [8, 64]}},
    )
    double = disk_need(make_plan(file, make_dataset(tmp_path / "double" / "data")))
    assert double.weights_bytes == 2 * disk_need(plan).weights_bytes


def test_trials_that_the_run_folder_holds_count_if_they_are_more_than_planned(plan, tmp_path):
    few, many = disk_need(plan, 20), disk_need(plan, 90, 30)
    assert few == disk_need(plan)
    assert (many.trials, many.kept) == (120, 90)
    for number in range(50):
        (tmp_path / "trials" / f"t{number}").mkdir(parents=True)
    (tmp_path / "trials" / Refit("t0", 1, 6).signature).mkdir()
    assert "predictions of 51 trials, weights of 50" in described(plan, 1, tmp_path)
    assert planned_need(plan, tmp_path / "new", 7).trials == 47


def test_a_small_sweep_may_use_a_gigabyte(plan):
    assert disk_need(plan).limit_gb("auto") == 1
    assert disk_need(plan).limit_gb(0.5) == 0.5
    assert disk_need(plan).limit_gb(None) == math.inf


def test_the_description_warns_of_a_disk_that_is_too_small(plan, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "small"
    assert "at most: predictions of 40 trials, weights of 40, checkpoints of 2; " in described(
        plan, 2, folder
    )
    monkeypatch.setattr(
        disk_space.shutil, "disk_usage", lambda folder: Usage(disk_space.FREE_BYTES + 10**6)
    )
    text = described(plan, 2, folder)
    assert "note      0.036 GB of disk may be needed, but there are less than 0.01" in text
    assert "predictions never" in text
    assert text.endswith("; free 0.035 GB to keep all")
    (folder / "trials" / "one").mkdir(parents=True)
    with (folder / "trials" / "one" / "weights").open("wb") as file:
        file.truncate(10**9)
    assert "note" not in described(plan, 2, folder)  # the sweep's own files count
    assert "; 1 GB for them" in described(plan, 2, Path(folder))


@pytest.mark.parametrize(
    ("disk_gb", "free", "shown"),
    [
        (
            "auto",
            45,
            "45 GB for them, of which ended trials may fill 15 GB (budget.disk_gb = auto)",
        ),
        (
            "auto",
            14,
            "14 GB for them, of which ended trials may fill 14 GB (budget.disk_gb = auto)",
        ),
        (20.0, 45, "45 GB for them, of which ended trials may fill 20 GB (budget.disk_gb = 20)"),
        (None, 45, "45 GB for them, of which ended trials may fill 45 GB (budget.disk_gb = null)"),
    ],
)
def test_the_limit_follows_from_the_need_and_the_disk(
    plan, tmp_path, monkeypatch, disk_gb, free, shown
):
    usage = Usage(disk_space.FREE_BYTES + free * 10**9)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda folder: usage)
    need = {"predictions_bytes": 2 * 10**9, "weights_bytes": 10**10, "running_bytes": 10**9}
    text = described(with_limit(plan, disk_gb), 2, tmp_path, **need)
    assert shown in text
    assert "note" not in text


@pytest.mark.parametrize(("disk_gb", "shown"), [(1e-9, "1e-09"), (11.0, "11")])
def test_a_need_above_the_limit_is_noted_with_the_consequence_and_the_fix(
    plan, tmp_path, disk_gb, shown
):
    need = {"predictions_bytes": 2 * 10**9, "weights_bytes": 10**10, "running_bytes": 10**6}
    text = described(with_limit(plan, disk_gb), 2, tmp_path, **need)
    assert (
        f"  note      the ended trials may need 12 GB of disk, more than budget.disk_gb = {shown}: "
        "weights of trials that others beat in every task are removed when space is short, "
        "predictions never, and the sweep ends if that is not enough; set budget.disk_gb=auto to "
        "keep all"
    ) in text.splitlines()


def test_a_trial_needs_the_space_of_its_own_model(plan):
    small, large, double = (
        trial_bytes(plan, compose([*words, "training.epochs=3"]), None)
        for words in (
            ["encoder.hidden=8"],
            ["encoder.hidden=64"],
            ["encoder.hidden=64", "training.precision=float64"],
        )
    )
    need = disk_need(plan)
    predictions = need.predictions_bytes // need.trials
    assert large == need.running_bytes + predictions
    assert double == 2 * need.running_bytes + predictions
    assert small - predictions < need.running_bytes / 5
    unbuildable = compose(["encoder=transformer", "encoder.hidden=9", "encoder.heads=2"])
    assert trial_bytes(plan, unbuildable, None) == predictions


def test_a_trial_on_a_fold_predicts_the_videos_of_the_fold(plan):
    config = compose([])
    parts = {**plan.parts, NAMES[0]: "select"}
    more = trial_bytes(replace(plan, folds=(parts,)), config, 0) - trial_bytes(plan, config, None)
    assert plan.parts[NAMES[0]] == "train"
    assert more == len(FRAMES) * 24 * 4


def test_the_folder_of_a_trial_never_takes_more_space_than_computed(plan, tmp_path, monkeypatch):
    words = ["encoder.hidden=64", "training.epochs=3"]
    folder = TrialFolder(tmp_path / "one")
    sizes = []

    def measured(file: Path, content: bytes) -> None:
        sizes.append(folder.size_bytes() + len(content))
        write_atomically(file, content)

    monkeypatch.setattr(trial_folder, "write_atomically", measured)
    assert train.main(["--data", str(tmp_path / "data"), "--out", str(folder.path), *words]) == 0
    most = trial_bytes(plan, compose(words), None)
    assert 0.5 * most < max(*sizes, folder.size_bytes()) < most
