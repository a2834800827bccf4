"""Tests of pretraining on Ray: one and two workers, kills, restarts and errors."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtl.errors import InputError
from mtl.features.backbones import load_backbone
from mtl.features.face_crops import Images, find_images
from mtl.pretraining.config import Augmentation
from mtl.synthetic import Demo, Faces, make_faces
from sweeps import pretrain
from sweeps.cluster.connection import connect
from tests.support.small_sweeps import (
    END_SECONDS,
    ROOT,
    START_SECONDS,
    actors,
    placement_groups,
    wait_until,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROGRAM = ROOT / "sweeps" / "pretrain.py"
DEMO = Demo(videos=8, mean_frames=12, split_shares=(0.5, 0.25, 0.25))
EPOCHS = 8
MAE = [
    "backbone=mae_vit_mini",
    "size=32",
    f"training.epochs={EPOCHS}",
    "training.batch_images=16",
    "optim.base_lr=0.02",
    "optim.warmup_epochs=1",
    "picture_epochs=4",
]
BROKEN = {"video001": "empty", "video002": "not an image (none of JPEG, PNG, BMP, WEBP)"}


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """Folder of about a hundred planted faces, two of which cannot be read."""
    folder: Path = tmp_path_factory.mktemp("pretraining") / "faces"
    make_faces(folder, 5, DEMO, Faces(size=32))
    for video, content in (("video001", b""), ("video002", b"a text")):
        image = min((folder / "cropped_aligned" / video).iterdir())
        image.write_bytes(content)
    return folder


def mae_arguments(faces: Path, out: Path, address: str, *more: str) -> list[str]:
    arguments = ["--method", "mae", "--images", str(faces / "cropped_aligned"), "--out", str(out)]
    return [*arguments, "--address", address, *MAE, *more]


def losses(out: Path) -> list[float]:
    with (out / "progress.csv").open(newline="") as file:
        return [float(row["loss_reconstruction"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def undisturbed(faces, ray_address, tmp_path_factory) -> Path:
    """Output folder of an uninterrupted pretraining with one worker."""
    out: Path = tmp_path_factory.mktemp("undisturbed") / "mae"
    assert pretrain.main(mae_arguments(faces, out, ray_address)) == 0
    return out


def test_a_pretraining_writes_weights_pictures_and_failed_images(undisturbed, faces):
    found = losses(undisturbed)
    assert len(found) == EPOCHS
    assert found[-1] < found[0]
    backbone = load_backbone("mae_vit_mini", undisturbed / "weights.safetensors", 32)
    with torch.no_grad():
        assert backbone(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)).isfinite().all()
    pictures = sorted(file.name for file in (undisturbed / "pictures").iterdir())
    assert pictures == ["epoch_0004.png", "epoch_0008.png"]
    with Image.open(undisturbed / "pictures" / pictures[-1]) as picture:
        assert picture.size == (8 * 33 - 1, 3 * 33 - 1)
        assert np.asarray(picture).std() > 10
    with (undisturbed / "failed_images.csv").open(newline="") as file:
        rows = {row["image"].split("/")[0]: row["reason"] for row in csv.DictReader(file)}
    assert rows == BROKEN
    environment = json.loads((undisturbed / "environment.json").read_text())
    assert environment["machine"]["cpus"] == os.cpu_count()


def test_a_finished_pretraining_is_not_repeated(
    undisturbed, faces, ray_address, monkeypatch, capsys
):
    monkeypatch.setattr(pretrain, "connect", None)  # Ray must not start
    assert pretrain.main(mae_arguments(faces, undisturbed, ray_address)) == 0
    assert "extract.py" in capsys.readouterr().out


@pytest.mark.extended
def test_the_same_command_continues_after_ctrl_c(undisturbed, faces, ray_address, tmp_path, capsys):
    out, output = tmp_path / "mae", tmp_path / "output.txt"
    arguments = mae_arguments(faces, out, ray_address)
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until((out / "checkpoint.safetensors").exists, START_SECONDS, output.read_text)
            process.send_signal(signal.SIGINT)
            assert process.wait(END_SECONDS) == 130, output.read_text()
        finally:
            process.kill()
            process.wait()
    assert "goes on after the last epoch" in output.read_text()
    assert pretrain.main(arguments) == 0
    assert losses(out) == losses(undisturbed)
    assert (out / "weights.safetensors").read_bytes() == (
        undisturbed / "weights.safetensors"
    ).read_bytes()


def supervised(faces: Path, out: Path, address: str, *more: str) -> list[str]:
    arguments = ["--method", "supervised", "--images", str(faces / "cropped_aligned")]
    arguments += ["--out", str(out), "--address", address]
    return [*arguments, "size=32", "training.epochs=4", "training.batch_images=16", *more]


def progress(out: Path) -> list[dict[str, float]]:
    with (out / "progress.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    compared = ("loss_", "score_")
    return [{k: float(v) for k, v in row.items() if k.startswith(compared)} for row in rows]


def run_and_kill_a_worker(arguments: list[str], out: Path, address: str) -> None:
    """Run a pretraining with two workers and kill one worker after the first checkpoint."""
    ended: list[int] = []
    with connect(address) as cluster:
        dashboard = cluster.dashboard
        wait_until(lambda: not actors(dashboard), END_SECONDS, lambda: actors(dashboard))
    workers: list[int] = []

    def both() -> bool:
        workers[:] = actors(dashboard).get("RayTrainWorker", [])
        return len(workers) == 2 and all(workers)  # 0 until the worker has a process

    thread = threading.Thread(target=lambda: ended.append(pretrain.main(arguments)), daemon=True)
    thread.start()
    wait_until(both, START_SECONDS, lambda: list(out.rglob("*")))
    saved = out / "checkpoint.safetensors"
    wait_until(saved.exists, START_SECONDS, lambda: list(out.rglob("*")))
    os.kill(workers[0], signal.SIGKILL)
    thread.join(START_SECONDS + END_SECONDS)
    assert not thread.is_alive()
    assert ended == [0]
    with connect(address):
        wait_until(lambda: not actors(dashboard), END_SECONDS, lambda: actors(dashboard))
        assert not placement_groups(dashboard)


def test_supervised_pretraining_with_a_killed_worker_equals_that_of_one_worker(
    undisturbed, faces, ray_address, tmp_path, monkeypatch, capsys
):
    """The path of the weights is relative, so workers cannot open it: they get the content."""
    monkeypatch.chdir(undisturbed)
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = ["--annotations", str(faces / "annotations"), "backbone=mae_vit_mini", "dropout=0"]
    arguments += ["balancing=upgrad"]
    weights = "weights=weights.safetensors"
    assert pretrain.main(supervised(faces, one, ray_address, *arguments, weights)) == 0
    best = json.loads((one / "scores.json").read_text())
    totals = [
        (row["score_valence"] + row["score_arousal"]) / 2
        + row["score_expression"]
        + row["score_action_units"]
        for row in progress(one)
    ]
    assert best["epoch"] == 1 + int(np.argmax(totals))
    assert "select P" in capsys.readouterr().out
    assert load_backbone("mae_vit_mini", one / "weights.safetensors", 32).width == 128
    more = ["--workers", "2", f"weights={undisturbed / 'weights.safetensors'}"]
    run_and_kill_a_worker(supervised(faces, two, ray_address, *arguments, *more), two, ray_address)
    printed = capsys.readouterr().out
    assert "2 workers on CPUs" in printed
    assert "a worker died: " in printed
    assert "going on after epoch" in printed
    for alone, together in zip(progress(one), progress(two), strict=True):
        assert alone.keys() == together.keys()
        np.testing.assert_allclose(list(together.values()), list(alone.values()), rtol=1e-3)
    # The weights are the same, so the pretraining is complete and Ray must not start.
    monkeypatch.setattr(pretrain, "connect", None)
    assert pretrain.main(supervised(faces, two, ray_address, *arguments, weights)) == 0


@pytest.mark.extended
def test_a_loss_that_is_not_finite_is_reported_in_one_line(faces, ray_address, tmp_path, capsys):
    arguments = supervised(faces, tmp_path / "bad", ray_address, "optim.base_lr=1e30")
    arguments += ["backbone=timm:resnet10t"]
    labels = tmp_path / "labels.csv"
    files = sorted((faces / "cropped_aligned" / "video003").iterdir())[:8]
    rows = [f"video003/{file.name},{n % 2}" for n, file in enumerate(files)]
    labels.write_text("\n".join(["image,AU1", *rows]))
    arguments += ["--labels", str(labels), "tasks=[action_units]", "training.batch_images=4"]
    arguments += ["optim.gradient_clip=0.0", "optim.warmup_epochs=0", "training.epochs=20"]
    assert pretrain.main(arguments) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: the loss of action_units is not finite at epoch ")
    assert printed.count("\n") == 1
    with pytest.raises(InputError, match="holds another pretraining"):
        pretrain.main([*arguments, "training.seed=3"])


def test_more_workers_than_fit_are_refused(faces, ray_address, tmp_path):
    arguments = mae_arguments(
        faces, tmp_path / "mae", ray_address, "--workers", "9", "--cpus", "99"
    )
    with pytest.raises(InputError, match=r"--workers 9 x \(--cpus 99\) is more than there is"):
        pretrain.main(arguments)


def test_a_folder_of_unreadable_images_is_an_error(ray_address, tmp_path):
    folder = tmp_path / "cropped_aligned" / "video"
    folder.mkdir(parents=True)
    for frame in range(16):
        (folder / f"{frame:05d}.jpg").write_bytes(b"")
    message = r"^none of the 16 images of epoch 1 could be read \(the first, video/.*: empty\)"
    with pytest.raises(InputError, match=message):
        pretrain.main(mae_arguments(tmp_path, tmp_path / "mae", ray_address))


def test_an_input_error_of_a_reading_task_keeps_its_message(faces, ray_address):
    class Forbidden(Images):
        def read(self, i):
            raise InputError("cannot read it: make it readable")

    found = find_images(faces / "cropped_aligned")
    with connect(ray_address):
        from sweeps.pretraining.reading import Reader, ReadSettings

        settings = ReadSettings(
            32, Image.Resampling.BICUBIC, Augmentation(crop_scale=(1, 1), flip=0), seed=0
        )
        reader = Reader(Forbidden(found.address, found.files), None, settings, tasks=1, cpus=1)
        with pytest.raises(InputError, match=r"^cannot read it: make it readable$"):
            list(reader.stream([np.arange(2)], epoch=1))
