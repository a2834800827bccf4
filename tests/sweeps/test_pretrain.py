"""sweeps/pretrain.py: checks before Ray starts, and the output folder."""

import csv
import errno
import io
import json
import os
from argparse import Namespace
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file

from mtl.errors import InputError
from mtl.features.backbones import load_backbone
from mtl.features.face_crops import find_images
from mtl.optimisation.checkpoint import pack
from mtl.pretraining.config import MAEConfig
from mtl.pretraining.pretrainer import PretrainResult
from mtl.strict import validate_as
from sweeps import pretrain
from sweeps.cluster.capacity import AutoscalerLimits
from sweeps.cluster.connection import Cluster
from sweeps.planning.compose import compose_plain
from sweeps.pretraining import folder as pretraining_folder
from sweeps.pretraining.events import PretrainingEpoch
from sweeps.pretraining.folder import PretrainingFolder
from sweeps.pretraining.pictures import as_png
from sweeps.pretraining.setup import (
    PretrainingSetup,
    initial_backbone,
    make_manifest,
    make_objective,
)

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
    """Function that returns the error message for some arguments; Ray must not start."""

    def say(*words: str, method: str = "mae") -> str:
        def no_ray(_):
            raise AssertionError("Ray was started")

        monkeypatch.setattr(pretrain, "connect", no_ray)
        monkeypatch.chdir(tmp_path)
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
        ([*MINI, "training.device=cuda"], "training.device = 'cuda' needs --gpus 1"),
        (
            [*MINI, "--workers", "5"],
            "training.batch_images = 4 is refused with 5 workers: each needs 1 at least; raise it",
        ),
        (["--out", "s3://bucket/mae"], "cannot write to s3://bucket/mae"),
        (["--out", "images/mae"], "images/mae lies in --images "),
        (["--out", "images"], "images lies in --images "),
    ],
)
def test_a_mistake_in_the_arguments_is_one_sentence(refused, words, says):
    assert says in refused(*words)


def test_a_folder_without_images_is_refused(refused, images):
    for image in images.iterdir():
        image.unlink()
    assert "holds no images" in refused(*MINI)


def test_labels_must_be_given_once_and_cover_each_task(refused, labels, tmp_path):
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
    words = [*given, *MINI, "tasks=[valence]", "--workers", "3"]
    says = refused(*words, "backbone=timm:resnet10t", method="supervised")
    assert "with 3 workers: each needs 2 at least: timm:resnet10t has batch norms" in says


def test_labels_of_missing_images(refused, labels, images, capsys):
    for image in sorted(images.iterdir())[:2]:
        image.unlink()
    given = ["--labels", str(labels), *MINI, "tasks=[expression]"]
    refused(*given, method="supervised")
    said = f"2 images of {labels} are not in {images} (such as face0.png)"
    assert said in capsys.readouterr().out
    labels.write_text(labels.read_text().replace("face", "faces/face"))
    says = refused(*given, method="supervised")
    assert f"none of its 6 images is in --images {images} (the first is faces/face0.png" in says


@pytest.fixture
def without_ray(images, tmp_path, monkeypatch, capsys):
    """Function that returns the output of the program up to a failed start of Ray."""

    def say(*words: str, method: str = "mae") -> str:
        def no_ray(_):
            raise InputError("no Ray cluster answers")

        monkeypatch.setattr(pretrain, "connect", no_ray)
        out = str(tmp_path / "out")
        with pytest.raises(InputError, match="no Ray cluster answers"):
            pretrain.main(["--method", method, "--images", str(images), "--out", out, *words])
        return capsys.readouterr().out

    return say


def test_images_without_a_label_of_the_tasks_are_left_out(without_ray, labels):
    content = labels.read_text().splitlines()
    content[1:3] = ["face0.png,,,1", "face1.png,,,0"]
    labels.write_text("\n".join(content))
    given = ["--labels", str(labels), *MINI, "tasks=[valence]"]
    assert "4 labelled images" in without_ray(*given, method="supervised")


def test_a_start_without_a_ray_cluster_changes_no_file(without_ray, images, tmp_path, monkeypatch):
    without_ray(*MINI)
    without_ray(*MINI, "training.seed=3")
    out = tmp_path / "out"
    done = PretrainingFolder(out, MANIFEST)
    done.begin("", {}, overwrite=False)
    done.write_epoch(PretrainingEpoch(result(1), b"", {"cls_token": torch.ones(1)}))
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.name != "driver.lock"}
    assert "6 images" in without_ray(*MINI, "--overwrite")
    assert before.items() <= {file.name: file.read_bytes() for file in out.iterdir()}.items()
    monkeypatch.setenv("HOME", str(images.parent))
    assert "6 images" in without_ray(*MINI, "--overwrite", "--images", "~/images")
    with (
        closing(done.lock()),
        pytest.raises(InputError, match=f"another driver .process {os.getpid()}. is working on"),
    ):
        pretrain.main(
            ["--method", "mae", "--images", str(images), "--out", str(out), *MINI, "--overwrite"]
        )


def test_weights_are_compared_by_content_and_sent_to_the_workers(images, tmp_path, monkeypatch):
    """Workers get the weights that the driver has read, because they have no access to the file."""
    state = load_backbone("mae_vit_mini", "random", 32, seed=5).model.state_dict()
    save_file(state, tmp_path / "one.safetensors")
    (tmp_path / "two.safetensors").write_bytes((tmp_path / "one.safetensors").read_bytes())
    save_file({k: v + 1 for k, v in state.items()}, tmp_path / "other.safetensors")
    monkeypatch.chdir(tmp_path)

    def given(weights: str) -> PretrainingSetup:
        plain = compose_plain("pretrain_mae", [*MINI, f"weights={weights}"])
        return PretrainingSetup(validate_as(MAEConfig, plain), find_images(images), None, 1, 0, 1)

    one, two, other, drawn = (
        make_manifest("mae", given(weights), initial_backbone(given(weights)))
        for weights in (
            "one.safetensors",
            tmp_path / "two.safetensors",
            "other.safetensors",
            "random",
        )
    )
    assert one == two
    assert one["config"]["weights"] != other["config"]["weights"]
    assert drawn["config"]["weights"] == "random"
    assert "picture_epochs" not in drawn["config"]
    sent = replace(given("random"), weights=initial_backbone(given("one.safetensors")).weights)
    there = make_objective(sent).backbone.state_dict()
    here = make_objective(given("one.safetensors")).backbone.state_dict()
    assert all(torch.equal(there[name], here[name]) for name in here)
    assert initial_backbone(given("random")).weights is None


def test_nodes_that_the_autoscaler_can_start_read_images_too():
    up = Cluster("none", ((4.0, 0.0),))
    more = replace(up, autoscaler=AutoscalerLimits((4.0, 0.0), ((8.0, 0.0),) * 3, at_once=2))
    words = Namespace(cpus=1)
    assert pretrain.reader_resources(words, 2, up) == {"readers": 1, "reader_cpus": 1}
    assert pretrain.reader_resources(words, 4, up) == {"readers": 1, "reader_cpus": 0}
    assert pretrain.reader_resources(words, 2, more) == {"readers": 9, "reader_cpus": 1}


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


def test_the_files_of_an_epoch(begun):
    faces = np.zeros((2, 3, 32, 32, 3), np.uint8)
    weights = {"cls_token": torch.arange(3.0)}
    first = result(1)
    begun.write_epoch(
        PretrainingEpoch(first, pack({"history": [vars(first)]}), weights=weights, picture=faces)
    )
    begun.write_epoch(PretrainingEpoch(result(2, scores={"valence": 0.25})))
    assert [row["epoch"] for row in rows(begun, "progress.csv")] == ["1", "2"]
    assert torch.equal(load_file(begun.weights)["cls_token"], weights["cls_token"])
    assert json.loads((begun.path / "scores.json").read_text())["epoch"] == 1
    assert [f.name for f in (begun.path / "pictures").iterdir()] == ["epoch_0001.png"]
    # After a restart the second epoch, which has no checkpoint, is trained again.
    begun.write_epoch(PretrainingEpoch(result(2, losses={"reconstruction": 0.125})))
    assert [row["loss_reconstruction"] for row in rows(begun, "progress.csv")] == ["1.0", "0.125"]


def test_the_same_pretraining_continues_and_another_is_refused(begun):
    checkpoint = pack({"history": [vars(result(1))]})
    begun.write_epoch(PretrainingEpoch(result(1), checkpoint))
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


def test_overwrite_removes_only_files_of_a_pretraining(begun):
    picture = np.zeros((1, 3, 32, 32, 3), np.uint8)
    begun.write_epoch(PretrainingEpoch(result(1), b"", {"cls_token": torch.ones(1)}, picture))
    begun.write_broken(("c.jpg: truncated",))
    for mine in (begun.path / "notes.txt", begun.path / "pictures" / "best.png"):
        mine.write_text("mine")
    fresh = PretrainingFolder(begun.path, {"method": "supervised"})
    assert fresh.check(overwrite=True) is None
    fresh.begin("", {}, overwrite=True)
    left = {str(f.relative_to(begun.path)) for f in begun.path.rglob("*") if f.is_file()}
    written = {"pretraining.json", "environment.json", "config.yaml"}
    assert left == {*written, "notes.txt", "pictures/best.png"}
    assert fresh.check(overwrite=False) is None


def test_a_folder_that_cannot_be_read_or_written_is_one_sentence(begun, tmp_path, monkeypatch):
    def full(file: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match=r"cannot write --out .*file/out \(Not a directory\)"):
        PretrainingFolder(file / "out", MANIFEST).lock()
    (begun.path / "checkpoint.safetensors").mkdir()
    with pytest.raises(InputError, match=r"cannot read --out .* \(Is a directory\): make it"):
        PretrainingFolder(begun.path, MANIFEST).check(overwrite=False)
    with pytest.raises(InputError, match=r"cannot write --out .* \(Is a directory\): check it"):
        begun.begin("", {}, overwrite=True)
    monkeypatch.setattr(pretraining_folder, "write_atomically", full)
    says = r"cannot write --out .* \(No space left on device\): make room, and the same command"
    with pytest.raises(InputError, match=says):
        begun.write_epoch(PretrainingEpoch(result(1)))
    with pytest.raises(InputError, match=says):
        begun.write_broken(("c.jpg: truncated",))


def test_a_folder_with_foreign_files_is_refused_and_not_changed(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        folder = PretrainingFolder(tmp_path, MANIFEST)
        with pytest.raises(InputError, match="is not empty and no pretraining's folder"):
            folder.check(overwrite)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"half",
        save({"cls_token": torch.ones(1)}),
        pack({"model": {}}),
        pack({"history": [{"epoch": 1}]}),
    ],
    ids=["half", "foreign", "another state", "another history"],
)
def test_a_damaged_checkpoint_is_one_sentence(begun, content):
    (begun.path / "checkpoint.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint.safetensors is damaged \(.*\): remove it"):
        PretrainingFolder(begun.path, MANIFEST).check(overwrite=False)


@pytest.mark.parametrize("content", ["{", "[]", "7"])
def test_a_damaged_manifest_is_one_sentence(begun, content):
    (begun.path / "pretraining.json").write_text(content)
    with pytest.raises(InputError, match=r"pretraining.json is damaged"):
        PretrainingFolder(begun.path, MANIFEST).check(overwrite=False)


def test_a_picture_has_a_column_for_each_face_and_three_rows():
    faces = np.random.default_rng(0).integers(0, 255, (4, 3, 32, 32, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(as_png(faces))) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (3 * 33 - 1, 4 * 33 - 1, 3)
    assert np.array_equal(pixels[33:65, 66:98], faces[2, 1])
    assert (pixels[32] == 255).all()
