"""sweeps/pretrain.py: what is refused before Ray starts, and the folder that it writes."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mtl.checkpoint import pack
from mtl.errors import InputError
from mtl.features.pretraining import PretrainResult
from sweeps import pretrain
from sweeps.pretraining.folder import PretrainingFolder, as_png
from sweeps.pretraining.record import Epoch

MINI = ["backbone=mae_vit_mini", "size=32", "training.batch_images=4"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (40, 40), (40 * i, 90, 120)).save(folder / f"face{i}.png")
    return folder


@pytest.fixture
def labels(tmp_path):
    file = tmp_path / "labels.csv"
    rows = [f"face{i}.png,{i / 10},,{i % 2}" for i in range(6)]
    file.write_text("\n".join(["image,valence,expression,AU1", *rows]))
    return file


@pytest.fixture
def refused(images, tmp_path, monkeypatch):
    """What the program says of these words; Ray must not be started for it."""

    def say(*words: str, method: str = "mae") -> str:
        def no_ray(_):
            raise AssertionError("Ray was started")

        monkeypatch.setattr(pretrain, "connect", no_ray)
        out = tmp_path / "out"
        given = ["--method", method, "--images", str(images), "--out", str(out), *words]
        with pytest.raises(InputError) as caught:
            pretrain.main(given)
        assert not out.exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return say


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trainin.epochs=3"], "did you mean 'training'"),
        (["backbone=mae_vit_huge"], "'mae_vit_huge' is no masked autoencoder: did you mean"),
        (["backbone=iresnet50"], "is no masked autoencoder"),
        ([*MINI, "size=30"], "size = 30 is refused"),
        ([*MINI, "training.batch_images=7"], "training.batch_images = 7 is refused: there are 6"),
        ([*MINI, "weights=nothing.pth"], "weights nothing.pth do not exist"),
        (["--labels", "x.csv"], "--labels is for --method supervised"),
        (["--cpus", "0"], "--cpus 0 must be at least 1"),
        (["--gpus", "0.5", "--workers", "2"], "NCCL lets no two workers share"),
        (["--restarts", "-1"], "must be at least 0"),
        (["optim.base_lr=${oc.env:HOME}"], "holds an interpolation"),
    ],
)
def test_a_mistake_is_one_sentence(refused, words, says):
    assert says in refused(*words)


def test_images_that_are_not_there(refused, images):
    for image in images.iterdir():
        image.unlink()
    assert "holds no images" in refused(*MINI)


def test_labels_are_needed_once_and_must_say_something_of_each_task(refused, labels, tmp_path):
    assert "needs either --labels CSV or --annotations DIR" in refused(*MINI, method="supervised")
    given = ["--labels", str(labels)]
    both = [*given, "--annotations", str(tmp_path)]
    assert "needs either" in refused(*both, method="supervised")
    says = refused(*given, *MINI, "tasks=[valence,expression]", method="supervised")
    assert says == "tasks: no image to train on has a label of expression: leave it out"
    says = refused(*given, "--subjects", "who.csv", method="supervised")
    assert says == "--subjects goes with --annotations: it divides the videos of its lists"
    says = refused(*given, "--confirm", "1", method="supervised")
    assert "--confirm 1 must be" in says
    words = [*given, *MINI, "tasks=[valence]", "balancing=upgrad", "--workers", "2"]
    assert "balancing = 'upgrad' needs each task's own gradient" in refused(
        *words, method="supervised"
    )


def result(epoch: int, **changes) -> PretrainResult:
    given = {"losses": {"reconstruction": 1 / epoch}, "learning_rate": 0.1, "images": 6}
    return PretrainResult(epoch=epoch, **given | changes, seconds=2.0, data_seconds=0.5)


MANIFEST = {"method": "mae", "config": {"training": {"epochs": 3}}, "images": "here"}


@pytest.fixture
def begun(tmp_path):
    folder = PretrainingFolder(tmp_path / "out", MANIFEST)
    assert folder.check(overwrite=False) is None
    folder.begin("a: 1\n", {"commit": None}, overwrite=False)
    return folder


def rows(folder: PretrainingFolder, file: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder.path / file).read_text())))


def test_what_an_epoch_leaves(begun):
    faces = np.zeros((2, 3, 32, 32, 3), np.uint8)
    weights = {"cls_token": torch.arange(3.0)}
    first = result(1)
    begun.write_epoch(
        Epoch(first, pack({"history": [vars(first)]}), weights=weights, picture=faces)
    )
    begun.write_epoch(Epoch(result(2, scores={"valence": 0.25})))
    assert [row["epoch"] for row in rows(begun, "progress.csv")] == ["1", "2"]
    assert torch.equal(load_file(begun.weights)["cls_token"], weights["cls_token"])
    assert json.loads((begun.path / "scores.json").read_text())["epoch"] == 1
    assert [f.name for f in (begun.path / "pictures").iterdir()] == ["epoch_0001.png"]
    # After a restart the second epoch, which left no checkpoint, comes again.
    begun.write_epoch(Epoch(result(2, losses={"reconstruction": 0.125})))
    assert [row["loss_reconstruction"] for row in rows(begun, "progress.csv")] == ["1.0", "0.125"]


def test_the_same_pretraining_goes_on_and_another_is_refused(begun):
    checkpoint = pack({"history": [vars(result(1))]})
    begun.write_epoch(Epoch(result(1), checkpoint))
    begun.write_broken(("a/b: 1.jpg: empty",))
    again = PretrainingFolder(begun.path, MANIFEST)
    assert again.check(overwrite=False) == checkpoint
    assert [r.epoch for r in again.results] == [1]
    again.write_broken(("c.jpg: truncated",))
    found = {row["image"]: row["reason"] for row in rows(again, "failed_images.csv")}
    assert found == {"a/b: 1.jpg": "empty", "c.jpg": "truncated"}
    assert again.broken == 2
    other = {**MANIFEST, "config": {"training": {"epochs": 4}}}
    says = r"holds another pretraining \(config.training.epochs = 3, this is 4\)"
    with pytest.raises(InputError, match=says):
        PretrainingFolder(begun.path, other).check(overwrite=False)
    fresh = PretrainingFolder(begun.path, other)
    assert fresh.check(overwrite=True) is None
    fresh.begin("", {}, overwrite=True)
    assert not (begun.path / "progress.csv").exists()


def test_what_is_no_pretrainings_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        folder = PretrainingFolder(tmp_path, MANIFEST)
        with pytest.raises(InputError, match="is not empty and no pretraining's folder"):
            folder.check(overwrite)
    assert (tmp_path / "thesis.txt").exists()


def test_damaged_files_are_one_sentence(begun):
    (begun.path / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match=r"checkpoint.safetensors is damaged"):
        PretrainingFolder(begun.path, MANIFEST).check(overwrite=False)
    (begun.path / "pretraining.json").write_text("{")
    with pytest.raises(InputError, match=r"pretraining.json is damaged"):
        PretrainingFolder(begun.path, MANIFEST).check(overwrite=False)


def test_a_picture_has_a_column_for_each_face_and_three_rows():
    faces = np.random.default_rng(0).integers(0, 255, (4, 3, 32, 32, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(as_png(faces))) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (3 * 33 - 1, 4 * 33 - 1, 3)
    assert np.array_equal(pixels[33:65, 66:98], faces[2, 1])
    assert (pixels[32] == 255).all()
