"""Tests of prediction files: spans make the same file as one write; bad requests are refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from mtl.build_model import build_model
from mtl.dataset import Dataset
from mtl.ensemble import Source
from mtl.ensemble.folder import pack_export
from mtl.errors import InputError
from mtl.predictions.submission import write_submission
from mtl.predictions.table import Predictions, decide
from mtl.whole_files import write_folder
from sweeps import predict
from sweeps.planning.compose import compose
from sweeps.predict import main
from sweeps.prediction.files import writing
from tests.support.small_data import FRAMES, NAMES, WIDTH, make_dataset


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return make_dataset(tmp_path / "data")


@pytest.fixture
def source(dataset) -> Source:
    listing = dataset.listing()
    index = {"appearance": dataset.index("appearance")}
    return Source(
        dataset, index, False, listing.names, listing.splits, listing.video, listing.frame
    )


@pytest.fixture
def outputs() -> np.ndarray:
    values = np.random.default_rng(0).random((len(NAMES) * len(FRAMES), 22)).astype(np.float32)
    values[:, 1] = np.nan
    return values


SPANS = (slice(0, 20), slice(20, 100), slice(100, 200))


def test_parquet_written_in_spans_equals_parquet_written_at_once(source, outputs, tmp_path):
    with writing(tmp_path / "p.parquet", source) as write:
        for span in SPANS:
            write(span, outputs[span])
        assert not (tmp_path / "p.parquet").exists()
    predictions = Predictions.load(tmp_path / "p.parquet")
    assert predictions.names == source.names
    assert np.array_equal(predictions.video, source.video)
    assert np.array_equal(predictions.frame, source.frame)
    assert np.array_equal(predictions.outputs, outputs, equal_nan=True)


def test_a_submission_written_in_spans_equals_one_written_at_once(source, outputs, tmp_path):
    with writing(tmp_path / "p.txt", source) as write:
        for span in SPANS:
            write(span, outputs[span])
        assert not (tmp_path / "p.txt").exists()
    images = [
        f"{source.names[v]}/{f:05d}.jpg" for v, f in zip(source.video, source.frame, strict=True)
    ]
    write_submission(tmp_path / "once.txt", images, *decide(outputs))
    assert (tmp_path / "p.txt").read_bytes() == (tmp_path / "once.txt").read_bytes()


@pytest.mark.parametrize("name", ["p.parquet", "p.txt"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
@pytest.mark.parametrize("before", [None, b"old"])
def test_an_interruption_leaves_the_old_file(source, outputs, tmp_path, name, error, before):
    file = tmp_path / "out" / name
    file.parent.mkdir()
    if before:
        file.write_bytes(before)

    def interrupted() -> None:
        with writing(file, source) as write:
            write(SPANS[0], outputs[SPANS[0]])
            raise error

    with pytest.raises(error):
        interrupted()
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == (
        {name: before} if before else {}
    )


@pytest.fixture
def exported(dataset, tmp_path, monkeypatch) -> Path:
    """Export of one untrained model, in a process that cannot connect to a cluster."""
    trial = compose(["encoder.hidden=8", "head=linear", "features=[appearance]", "tasks=[valence]"])
    torch.manual_seed(0)
    weights = save(build_model(trial, WIDTH, ["valence"]).state_dict())
    plain = {
        "versions": {},
        "dataset": dataset.hash,
        "features": {"appearance": WIDTH},
        "image_name": "{frame:05d}.jpg",
        "prior": {"valence": [0.5]},
        "members": {
            "one": {
                "config": trial.plain(),
                "weights": {"valence": 1},
                "epochs": {"valence": 1},
            }
        },
        "postprocessing": {"smoothing": {}, "bias": [], "thresholds": []},
        "scores": {},
    }
    statistics = {"appearance": dataset.statistics("appearance")}
    files = pack_export(plain, statistics, {"members/one/epoch_001.safetensors": weights})
    write_folder(tmp_path / "export", files)
    monkeypatch.setattr(predict, "connect", None)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "export"


def refusal(**words: str) -> str:
    usual = {"model": "export", "data": "data", "out": "new.parquet"}
    arguments = [part for key, value in {**usual, **words}.items() for part in (f"--{key}", value)]
    with pytest.raises(InputError) as caught:
        main(arguments)
    assert not Path("new.parquet").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"out": "new.csv"}, "--out new.csv must end in .parquet"),
        ({"out": "there.txt"}, "there.txt exists: write another file, or --overwrite it"),
        ({"out": "none/new.txt"}, "there is no folder none"),
        ({"model": "data"}, "--model data is neither an exported model"),
        ({"model": "nowhere"}, "--model nowhere is neither an exported model"),
        ({"data": "export"}, "export is no dataset"),
        ({"data": "other"}, "no feature set 'appearance', .*did you mean 'appearances'"),
        ({"workers": "0"}, "--workers 0 must be auto or at least 1"),
        ({"workers": "-1"}, "--workers -1 must be auto or at least 1"),
        ({"cpus": "0"}, "--cpus 0 must be at least 1"),
        ({"gpus": "1.5"}, "--gpus 1.5 must be a whole number, or a share below 1"),
    ],
)
def test_bad_arguments_are_refused_before_a_cluster_is_connected(
    exported, tmp_path, words, message
):
    (tmp_path / "there.txt").write_text("mine")
    make_dataset(tmp_path / "other", frames={"appearances": dict.fromkeys(NAMES, FRAMES)})
    assert re.search(message, refusal(**words))
    assert (tmp_path / "there.txt").read_text() == "mine"


def test_a_split_whose_frames_have_no_features_is_refused(exported, tmp_path):
    apart = {name: FRAMES if name in NAMES[:4] else [99] for name in NAMES}
    make_dataset(tmp_path / "other", frames={"appearance": apart})
    message = "feature sets appearance have no listed frame in common"
    assert message in refusal(data="other", split="test")
