"""Tests of the export: it holds the fused model with all that it needs and nothing more."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from mtl.dataset import Dataset
from mtl.ensemble import Ensemble
from mtl.errors import InputError
from mtl.predictions.table import Predictions
from sweeps.data.trial_data import SlotData
from sweeps.fusion.frames import listed_rows
from sweeps.fusion.sweep import SweepFusion
from sweeps.planning.compose import compose, signature
from sweeps.planning.plan import divide
from sweeps.prediction.export import export, export_files, sweep_data
from sweeps.records.messages import Epoch, Job
from sweeps.search_file import FusionSection, load
from sweeps.slots.trial_loop import TrialLoop
from sweeps.storage.run_folder import record_start
from sweeps.storage.trial_folder import TrialFolder
from sweeps.train import FeatureFiles
from tests.support.small_data import NAMES, make_dataset, make_listing, write_space

SMALL = ("encoder.hidden=8", "head=linear", "training.epochs=3", "features=[appearance]")
TRIALS = (
    ("encoder=gru", "encoder.layers=1"),
    ("encoder=transformer", "encoder.layers=1", "encoder.heads=2", "sequence.frames=all"),
    ("encoder=lstm", "encoder.layers=1", "sequence.frame_stride=2"),
)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of an ended sweep, made without Ray."""
    tmp_path: Path = tmp_path_factory.mktemp("export")
    frames = {name: range(1, 41) for name in NAMES[:-1]}  # the last video has no features
    data = make_dataset(tmp_path / "data", frames={"appearance": frames, "unused": frames})
    folder = tmp_path / "run"
    record_start(folder, load(write_space(tmp_path, data.address)), data, resumed=False)
    listing = data.listing()
    parts = divide(listing, 0.5, 3)
    for overrides in TRIALS:
        train(folder, data, [*SMALL, *overrides], parts)
    SweepFusion(folder, data, listing, parts, FusionSection(steps=5)).finish()
    return folder


def train(folder: Path, data: Dataset, overrides: list[str], parts: dict[str, str]) -> None:
    """Train a trial as a slot does."""
    trial, listing = compose(overrides), data.listing()
    listed = None if trial.sequence.frames == "all" else listing
    name = signature(trial, data.hash)
    files = TrialFolder.in_run(folder, name)
    files.begin(yaml.safe_dump(trial.plain()))
    trial_data = SlotData(FeatureFiles(data, listed), listing, parts).for_trial(trial)
    for event in TrialLoop(Job("alone", trial.plain()), trial, trial_data).events():
        if isinstance(event, Epoch):
            files.write_epoch(event)
        else:
            files.write_end(event, listing)
            files.remove_checkpoint()


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """Copy of the run folder that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_an_export_predicts_the_same_as_the_sweep(finished_run, tmp_path):
    data = sweep_data(finished_run)
    export(finished_run, data, tmp_path / "export")
    predictions = Ensemble.load(tmp_path / "export", "cpu").predict(data)
    stored = Predictions.load(finished_run / "fusion" / "predictions.parquet")
    rows = listed_rows(data.listing(), stored)
    assert len(rows) == 6 * 20
    np.testing.assert_allclose(predictions.outputs[rows], stored.outputs, atol=1e-5, rtol=0)


def test_an_export_holds_the_needed_files_only(finished_run, tmp_path):
    data = sweep_data(finished_run)
    export(finished_run, data, tmp_path / "export")
    manifest = json.loads((tmp_path / "export" / "model.json").read_text())
    chosen = json.loads((finished_run / "fusion" / "members.json").read_text())
    for task, member_weights in chosen["members"].items():
        weights = {name: member["weights"] for name, member in manifest["members"].items()}
        assert {name: w[task] for name, w in weights.items() if task in w} == member_weights
    files = {str(p.relative_to(tmp_path / "export")) for p in (tmp_path / "export").rglob("*.*")}
    assert files == {"model.json", *manifest["files"]}
    assert manifest["features"] == {"appearance": 3}
    scores = json.loads((finished_run / "scores.json").read_text())
    assert manifest["scores"]["confirm"]["fused"] == scores["confirm"]["fused"]
    assert manifest["versions"].keys() == {"python", "mtl-sweeps", "torch", "numpy"}
    assert str(finished_run) not in json.dumps(manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_weights_may_be_fractions_and_a_member_of_weight_0_is_left_out(run):
    file = run / "fusion" / "members.json"
    fused = json.loads(file.read_text())
    first, second, *_ = (trial.name for trial in (run / "trials").iterdir())
    fused["members"] = {"valence": {first: 0.25, second: 0}}
    file.write_text(json.dumps(fused))
    files = export_files(run, sweep_data(run))
    members = json.loads(files["model.json"])["members"]
    assert {name: member["weights"] for name, member in members.items()} == {
        first: {"valence": 0.25}
    }


@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_nothing_is_overwritten(finished_run, tmp_path, there):
    destination = tmp_path / "export"
    if there == "file":
        destination.write_text("mine")
    elif there == "folder":
        destination.mkdir()
    else:
        destination.symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="export exists: export to another folder"):
        export(finished_run, sweep_data(finished_run), destination)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_weights_that_are_no_longer_kept_are_refused_with_the_remedy(run, tmp_path):
    data = sweep_data(run)
    chosen = json.loads((run / "fusion" / "members.json").read_text())["members"]
    (member, *_) = chosen["valence"]
    shutil.rmtree(run / "trials" / member / "weights")
    with pytest.raises(InputError, match=f"train member {member} again .* stop it after epoch 3"):
        export(run, data, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_damaged_weights_are_not_exported(run, tmp_path):
    for file in run.glob("trials/*/weights/*"):
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError, match="damaged"):
        export(run, sweep_data(run), tmp_path / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_sweep_without_a_fused_model_and_other_data_are_refused(run, tmp_path):
    other = make_dataset(tmp_path / "other", make_listing(known=(0,)))
    with pytest.raises(InputError, match="a sweep on other data"):
        export(run, other, tmp_path / "export")
    data = sweep_data(run)
    (run / "fusion" / "members.json").unlink()
    with pytest.raises(InputError, match="no fused model: let its sweep end first"):
        export(run, data, tmp_path / "export")


def test_a_full_disk_leaves_no_partial_export(finished_run, tmp_path, monkeypatch):
    data = sweep_data(finished_run)

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        export(finished_run, data, tmp_path / "export")
    assert not list(tmp_path.iterdir())
