"""Tests of the run folder: it belongs to one sweep, which may be started again."""

import json
import shutil

import pytest

from mtl.errors import InputError
from sweeps.search_file import load
from sweeps.storage.driver_lock import LOCK
from sweeps.storage.run_folder import (
    check_run_folder,
    fresh_name,
    record_start,
    recorded_points,
)
from tests.support.small_data import make_dataset, search_file

VARIED = {"optim.lr": {"min": 1e-3, "max": 1e-1, "log": True}}


def start(folder, file, dataset):
    """Check a run folder and record a start in it; True if an earlier sweep goes on."""
    resumed = check_run_folder(folder, file, dataset)
    record_start(folder, file, dataset, resumed)
    return resumed


@pytest.fixture
def dataset(tmp_path):
    return make_dataset(tmp_path / "data")


@pytest.fixture
def folder(tmp_path, dataset):
    """Run folder of a sweep that was started once."""
    assert start(tmp_path / "runs" / "small", search_file(tmp_path), dataset) is False
    return tmp_path / "runs" / "small"


def content(folder):
    return {f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_new_folder_holds_the_space_and_the_environment(folder, tmp_path, dataset):
    assert load(folder / "space.yaml").identity() == search_file(tmp_path).identity()
    kept = json.loads((folder / "environment.json").read_text())
    assert kept["dataset"] == dataset.hash
    assert kept["packages"]["ray"]


@pytest.mark.parametrize(
    "change", ["search.trials=9", "budget.failures=7", "resources.concurrent_trials=1"]
)
def test_the_same_sweep_goes_on_and_may_have_another_budget(folder, tmp_path, dataset, change):
    before = content(folder)
    assert start(folder, search_file(tmp_path, change), dataset) is True
    after = content(folder)
    first, kept = (json.loads(files["environment.json"]) for files in (before, after))
    assert {key: kept[key] for key in first} == first
    assert [list(start) for start in kept["resumed"]] == [["started", "command", "commit", "diff"]]
    path, value = change.split("=")
    section, key = path.split(".")
    assert str(getattr(getattr(load(folder / "space.yaml"), section), key)) == value


def test_a_moved_dataset_is_the_same_dataset(folder, tmp_path, dataset):
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = type(dataset)(str(tmp_path / "moved"), dataset.info)
    file = search_file(tmp_path, f"data={tmp_path / 'moved'}")
    assert start(folder, file, moved) is True


@pytest.mark.parametrize(
    ("change", "more", "named"),
    [
        ("search.seed=4", {}, "another search"),
        ("search.sampler=random", {}, "another search"),
        ("pruner.kind=none", {}, "another pruner"),
        ("fusion.steps=3", {}, "another fusion"),
        ("encoder.layers=1", {}, "another fixed"),
        ("name=small", {"encoder.dropout": {"min": 0.0, "max": 0.5}}, "another space"),
        ("optim.lr=0.1", {"encoder.dropout": {"min": 0.0, "max": 0.5}}, "another fixed and space"),
    ],
)
def test_another_space_is_refused_and_changes_nothing(
    folder, tmp_path, dataset, change, more, named
):
    before = content(folder)
    file = search_file(tmp_path, change, space={**VARIED, **more})
    with pytest.raises(InputError, match=named):
        start(folder, file, dataset)
    assert content(folder) == before


def test_other_data_is_refused(folder, tmp_path):
    other = make_dataset(tmp_path / "other", frames={"geometry": {"v0": [1, 2], "v4": [1]}})
    before = content(folder)
    with pytest.raises(InputError, match=r"on other data.*name="):
        start(folder, search_file(tmp_path), other)
    assert content(folder) == before


def test_a_folder_without_a_sweep_is_refused(tmp_path, dataset):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no sweep"):
        start(tmp_path / "mine", search_file(tmp_path), dataset)
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_file_instead_of_a_folder_is_refused(tmp_path, dataset):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="is not empty and holds no sweep"):
        start(tmp_path / "mine", search_file(tmp_path), dataset)


def test_checking_changes_nothing(folder, tmp_path, dataset):
    before = content(folder)
    assert check_run_folder(folder, search_file(tmp_path, "search.trials=9"), dataset) is True
    assert check_run_folder(tmp_path / "new", search_file(tmp_path), dataset) is False
    assert content(folder) == before
    assert not (tmp_path / "new").exists()


def test_a_start_killed_before_the_space_was_written_is_repeated(folder, tmp_path, dataset):
    (folder / "space.yaml").rename(folder / "space.yaml.unfinished")
    (folder / LOCK).touch()
    assert start(folder, search_file(tmp_path), dataset) is False
    assert start(folder, search_file(tmp_path), dataset) is True


def test_a_fresh_name_is_the_first_that_is_free(tmp_path):
    assert fresh_name(tmp_path / "runs", "small") == "small-2"
    for name in ("small", "small-2", "small-4"):
        (tmp_path / name).mkdir()
    assert fresh_name(tmp_path, "small") == "small-3"
    # A file and a dangling link are no free names either.
    (tmp_path / "small-3").touch()
    (tmp_path / "small-5").symlink_to(tmp_path / "nowhere")
    assert fresh_name(tmp_path, "small") == "small-6"


def test_a_start_beside_another_one_is_refused(folder, tmp_path, dataset):
    """The other start made the sweep between this one's check and its lock."""
    before = content(folder)
    with pytest.raises(InputError, match="changed by another start"):
        record_start(folder, search_file(tmp_path), dataset, resumed=False)
    assert content(folder) == before


HASH = "0" * 64
DAMAGED = {
    "cut off": ("{", "it is no JSON"),
    "empty": ("", "it is no JSON"),
    "deep": ("[" * 10**5, "it is no JSON"),
    "not UTF-8": (b"\xff\xfe", "it is no JSON"),
    "a list": ("[]", "it holds a list and no mapping"),
    "no dataset": ("{}", "dataset is missing"),
    "a number as hash": ({"dataset": 1}, "dataset = 1 is refused"),
    "points in a list": ({"dataset": HASH, "first": []}, "first = [] is refused"),
    "one point": (
        {"dataset": HASH, "first": {"runs/old": {"encoder": "gru"}}},
        "first.runs/old = ",
    ),
    "points without keys": (
        {"dataset": HASH, "first": {"runs/old": [{}]}},
        "first.runs/old.0 = {}",
    ),
    "points of texts": (
        {"dataset": HASH, "first": {"runs/old": ["gru"]}},
        "first.runs/old.0 = 'gru",
    ),
    "starts in a mapping": ({"dataset": HASH, "resumed": {}}, "resumed = {} is refused"),
}


@pytest.mark.parametrize(("content", "fault"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_environment_is_refused_in_one_sentence(
    folder, tmp_path, dataset, content, fault
):
    content = json.dumps(content) if isinstance(content, dict) else content
    content = content.encode() if isinstance(content, str) else content
    (folder / "environment.json").write_bytes(content)
    before = [file.read_bytes() for file in sorted(folder.iterdir())]
    file = search_file(tmp_path)
    for read in (
        lambda: check_run_folder(folder, file, dataset),
        lambda: record_start(folder, file, dataset, resumed=True),
        lambda: recorded_points(folder),
    ):
        with pytest.raises(InputError) as refused:
            read()
        assert str(refused.value).startswith(f"{folder / 'environment.json'} is missing or damaged")
        assert fault in str(refused.value)
        assert "restore the file" in str(refused.value)
        assert "\n" not in str(refused.value)
    assert [file.read_bytes() for file in sorted(folder.iterdir())] == before


def test_a_later_start_keeps_all_that_the_first_one_recorded(folder, tmp_path, dataset):
    file = folder / "environment.json"
    known = {**json.loads(file.read_text()), "command": "run.py data=\udcff", "note": [1, None]}
    file.write_text(json.dumps(known))
    start(folder, search_file(tmp_path), dataset)
    kept = json.loads(file.read_text())
    assert len(kept.pop("resumed")) == 1
    assert kept == known
