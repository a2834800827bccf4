"""train.py: a trial gets exactly the results of a slot, also after an interruption."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mtl.dataset import Dataset, Listing, write_dataset
from mtl.errors import InputError
from mtl.predictions.table import Predictions
from mtl.training.trainer import EpochResult, Trainer
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose, signature
from sweeps.planning.plan import divide
from sweeps.records.messages import End, Epoch, Job
from sweeps.slots.trial_loop import TrialLoop
from sweeps.storage.trial_folder import TrialFolder
from sweeps.train import FeatureFiles, _collapse_warning, main
from tests.support.paths import ROOT

SMALL = ("encoder.hidden=8", "encoder.layers=1", "head=linear", "training.epochs=3")
FRAMES = np.arange(1, 31, dtype=np.int32)
SPLITS = ("train",) * 6 + ("validation",) * 4 + ("test",) * 2
NAMES = tuple(f"v{number:02d}" for number in range(len(SPLITS)))


def make_listing(known: tuple[int, ...] = (0, 1)) -> Listing:
    """Return random labels, of which only the columns in ``known`` are set."""
    random = np.random.default_rng(0)
    frames = len(NAMES) * len(FRAMES)
    video = np.repeat(np.arange(len(NAMES), dtype=np.int32), len(FRAMES))
    mask = np.zeros((frames, 15), bool)
    mask[:, list(known)] = (video < 10)[:, None]
    values = np.tanh(random.normal(size=(frames, 15))).astype(np.float32) * mask
    return Listing(NAMES, SPLITS, NAMES, video, np.tile(FRAMES, len(NAMES)), values, mask)


def make_dataset(folder: Path, listing: Listing) -> Dataset:
    """Write one set of 4 features, half of whose frames are not listed."""
    random = np.random.default_rng(1)
    frames = np.arange(1, 61, dtype=np.int32)
    blocks = [(name, frames, random.normal(size=(60, 4)).astype(np.float32)) for name in NAMES]
    return write_dataset(folder, listing, {"appearance": blocks}, sources={})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return make_dataset(tmp_path_factory.mktemp("train") / "data", make_listing())


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def arguments(dataset: Dataset, out: Path, *more: str) -> list[str]:
    return ["--data", dataset.address, "--out", str(out), *SMALL, *more]


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_scores_and_outputs_are_those_of_a_slot(dataset, tmp_path, capsys):
    assert main(arguments(dataset, tmp_path / "t", "encoder.dropout=0.3")) == 0
    config = compose([*SMALL, "encoder.dropout=0.3"])
    listing = dataset.listing()
    data = SlotData(FeatureFiles(dataset, listing), listing, divide(listing, 0.5, 1234)).for_trial(
        config
    )
    *epochs, end = TrialLoop(Job("a", config.plain()), config, data).events()
    assert isinstance(end, End)
    assert all(isinstance(event, Epoch) for event in epochs)
    shown = last_line(capsys)
    cost = shown.pop("prediction")
    assert (cost["frames"], cost["models"]) == (len(end.rows), end.models)
    assert cost["seconds"] > 0
    assert shown == {
        "select": {"score": epochs[-1].result["objective"], **epochs[-1].result["best_scores"]},
        "epochs": epochs[-1].result["best_epochs"],
        "folder": str(tmp_path / "t"),
    }
    written = Predictions.load(tmp_path / "t" / "predictions.parquet")
    np.testing.assert_array_equal(written.outputs, end.outputs)
    np.testing.assert_array_equal(written.frame, listing.frame[end.rows])


@pytest.mark.parametrize("read_rows", [1, 61, 150, 10_000])
def test_all_rows_or_the_listed_rows_of_feature_files_are_read(dataset, monkeypatch, read_rows):
    monkeypatch.setattr("mtl.sequences.feature_table.READ_ROWS", read_rows)
    stored = dataset.read("appearance", 0, 60 * len(NAMES)).reshape(len(NAMES), 60, 4)
    for listing, frames in ((None, np.arange(1, 61)), (dataset.listing(), FRAMES)):
        table = FeatureFiles(dataset, listing).load("appearance")
        for number, name in enumerate(NAMES):
            block, first = table.rows[name]
            np.testing.assert_array_equal(table.frames[name], frames)
            found = table.blocks[block][first : first + len(frames)]
            np.testing.assert_array_equal(found, stored[number, : len(frames)])
        assert sum(map(len, table.blocks)) == len(frames) * len(NAMES)


def test_the_folder_has_the_files_of_a_trial(dataset, tmp_path, capsys):
    assert main(arguments(dataset, tmp_path / "t")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    files = {file.name for file in (tmp_path / "t").iterdir()}
    assert files == {"config.yaml", "predictions.parquet", "progress.csv", "scores.json", "weights"}
    best = set(json.loads(lines[-1])["epochs"].values())
    weights = {file.name for file in (tmp_path / "t" / "weights").iterdir()}
    assert weights == {f"epoch_{epoch:03d}.safetensors" for epoch in best}
    text = (tmp_path / "t" / "config.yaml").read_text()
    assert yaml.safe_load(text) == compose(SMALL).plain()
    assert text.startswith(f"# {signature(compose(SMALL), dataset.hash)}, confirm 0.5, seed 1234\n")


def test_the_command_in_the_folder_is_the_one_that_was_given(dataset, tmp_path, capsys):
    given = [f"--data={dataset.address}", f"--out={tmp_path / 't'}", "--confirm=0.25", "--seed=7"]
    words = [*given, "--cpus=1", *SMALL, "features=[appearance]"]
    assert main(words) == 0
    first = last_line(capsys)
    command = (tmp_path / "t" / "config.yaml").read_text().splitlines()[1]
    assert command.startswith("# python sweeps/train.py --data=")
    assert command.endswith("'features=[appearance]'")
    assert main(words) == 0
    assert last_line(capsys) == first


def test_another_division_gives_other_scores(dataset, tmp_path, capsys):
    scores = []
    for seed in (1, 2):
        assert main(arguments(dataset, tmp_path / str(seed), "--seed", str(seed))) == 0
        scores.append(last_line(capsys)["select"]["score"])
    assert scores[0] != scores[1]


def test_without_out_the_folder_is_named_after_the_signature(
    dataset, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(["--data", dataset.address, *SMALL]) == 0
    sign = signature(compose(SMALL), dataset.hash)
    assert last_line(capsys)["folder"] == f"runs/train/{sign}"


def test_an_interrupted_trial_continues_to_the_same_bits(dataset, tmp_path, capsys, monkeypatch):
    assert main(arguments(dataset, tmp_path / "whole")) == 0
    whole = last_line(capsys)
    write = TrialFolder.write_epoch

    def write_and_interrupt(folder: TrialFolder, event: Epoch) -> None:
        write(folder, event)
        if event.result["epoch"] == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(TrialFolder, "write_epoch", write_and_interrupt)
        assert main(arguments(dataset, tmp_path / "cut")) == 130
    assert "interrupted" in capsys.readouterr().err
    assert (tmp_path / "cut" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "cut" / "predictions.parquet").exists()
    trained = []
    epochs = Trainer.epochs

    def noted(trainer: Trainer, *arguments: Any) -> Iterator[EpochResult]:
        for result in epochs(trainer, *arguments):
            trained.append(result.epoch)
            yield result

    monkeypatch.setattr(Trainer, "epochs", noted)
    assert main(arguments(dataset, tmp_path / "cut")) == 0
    assert trained == [3]
    cut = last_line(capsys)
    for line in (cut, whole):
        del line["prediction"]["seconds"], line["folder"]
    assert cut == whole
    read = [Predictions.load(tmp_path / n / "predictions.parquet") for n in ("whole", "cut")]
    np.testing.assert_array_equal(read[0].outputs, read[1].outputs)
    assert not (tmp_path / "cut" / "checkpoint.safetensors").exists()


def test_a_finished_trial_is_not_trained_again(dataset, tmp_path, capsys, monkeypatch):
    assert main(arguments(dataset, tmp_path / "t")) == 0
    first = capsys.readouterr().out.splitlines()
    monkeypatch.setattr("sweeps.train.TrialLoop", None)
    assert main(arguments(dataset, tmp_path / "t")) == 0
    assert capsys.readouterr().out.splitlines() == first[-1:]
    assert (tmp_path / "t" / "progress.csv").read_text().count("\n") == 4


FALLEN = ("encoder=transformer", "encoder.heads=2", "encoder.feedforward=8", "optim.lr=30")


def test_a_collapse_is_named_once_with_its_fix_and_training_goes_on(dataset, tmp_path, capsys):
    assert main(arguments(dataset, tmp_path / "t", *FALLEN, "tasks=[valence]")) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "epoch 1/3",
        "epoch 2/3",
        "warning",
        "epoch 3/3",
    ]
    assert lines[2] == (
        "warning: all tasks collapsed: for two epochs in a row, the outputs on select are nearly "
        "constant: lower optim.lr = 30, or set encoder.norm=pre"
    )
    assert json.loads(last)["collapsed"] == ["valence"]


def test_a_warning_names_the_collapsed_tasks_if_not_all_have_collapsed():
    result = {"collapsed": {"valence": True, "arousal": False, "expression": True}}
    sentence = _collapse_warning(result, compose(["encoder=gru", "optim.lr=0.01"]))
    assert sentence.startswith("warning: valence, expression collapsed: for two epochs")
    assert sentence.endswith("lower optim.lr = 0.01")


def test_a_diverging_loss_ends_with_the_reason(dataset, tmp_path, capsys):
    words = arguments(dataset, tmp_path / "t", "optim.lr=1e30", "optim.gradient_clip=0")
    assert main(words) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "optim.lr" in shown
    assert "optim.lr" in (tmp_path / "t" / "error.txt").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["encoder=gruu"], "gruu"),
        (["encoder.hiden=8"], "encoder.hidden"),
        (["optim.lr=-1"], "optim.lr"),
        ([f"encoder.hidden={10**400}"], "no model can be built of"),
        (["features=[geometry]"], "geometry"),
        (["tasks=[expression]"], "expression"),
        (["--confirm", "1"], "--confirm 1 must"),
        (["--seed", "-1"], "--seed -1 must"),
        (["--cpus", "0"], "--cpus 0 must"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(dataset, tmp_path, words, expected):
    with pytest.raises(InputError, match=expected) as caught:
        main(arguments(dataset, tmp_path / "t", *words))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_a_task_without_labels_in_select_is_refused(tmp_path):
    listing = make_listing(known=(0,))
    listing.mask[np.isin(listing.video, np.arange(6, 10))] = False
    data = make_dataset(tmp_path / "data", listing)
    with pytest.raises(InputError, match="--confirm or --seed"):
        main(arguments(data, tmp_path / "t"))


def test_a_missing_gpu_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"training\.device"):
        main(arguments(dataset, tmp_path / "t", "training.device=cuda"))


def test_a_folder_of_another_trial_is_not_changed(dataset, tmp_path):
    assert main(arguments(dataset, tmp_path / "t")) == 0
    before = (tmp_path / "t" / "scores.json").read_bytes()
    for more in (["training.epochs=2"], ["--seed", "1"]):
        with pytest.raises(InputError, match="holds another trial"):
            main(arguments(dataset, tmp_path / "t", *more))
    assert (tmp_path / "t" / "scores.json").read_bytes() == before
    with pytest.raises(InputError, match="no trial"):
        main(arguments(dataset, tmp_path))


def test_the_program_exits_with_code_2_and_does_not_import_ray(dataset):
    code = (
        "import sys; from sweeps.cli.run_program import run_program; import sweeps.train as t\n"
        "assert 'ray' not in sys.modules\n"
        f"run_program(lambda: t.main(['--data', {dataset.address!r}, 'head=deep']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: head = 'deep' is unknown")
    assert done.stderr.count("\n") == 1
