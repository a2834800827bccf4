"""Pretraining on Ray: the same for any number of workers, through kills and restarts."""

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
from sweeping import ROOT, actors, placement_groups, wait_until

from mtl.errors import InputError
from mtl.features.backbones import load_backbone
from mtl.synthetic import Demo, Faces, make_faces
from sweeps import pretrain
from sweeps.cluster import connect

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PROGRAM = ROOT / "sweeps" / "pretrain.py"
DEMO = Demo(videos=8, mean_frames=12, split_shares=(0.5, 0.25, 0.25))
EPOCHS = 4
MAE = [
    "backbone=mae_vit_mini",
    "size=32",
    f"training.epochs={EPOCHS}",
    "training.batch_images=16",
    "optim.base_lr=0.02",
    "optim.warmup_epochs=1",
    "picture_epochs=2",
]
BROKEN = {"video001": "empty", "video002": "not an image (none of JPEG, PNG, BMP, WEBP)"}


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """A hundred planted faces, two of which cannot be read."""
    folder: Path = tmp_path_factory.mktemp("pretraining") / "faces"
    make_faces(folder, 5, DEMO, Faces(size=32))
    for video, content in (("video001", b""), ("video002", b"a text")):
        image = min((folder / "cropped_aligned" / video).iterdir())
        image.write_bytes(content)
    return folder


def words(faces: Path, out: Path, address: str, *more: str) -> list[str]:
    given = ["--method", "mae", "--images", str(faces / "cropped_aligned"), "--out", str(out)]
    return [*given, "--address", address, *MAE, *more]


def losses(out: Path) -> list[float]:
    with (out / "progress.csv").open(newline="") as file:
        return [float(row["loss_reconstruction"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def undisturbed(faces, ray_address, tmp_path_factory) -> Path:
    """A pretraining by one worker."""
    out: Path = tmp_path_factory.mktemp("undisturbed") / "mae"
    assert pretrain.main(words(faces, out, ray_address)) == 0
    return out


def test_a_pretraining_leaves_what_extract_reads(undisturbed, faces):
    found = losses(undisturbed)
    assert len(found) == EPOCHS
    assert found[-1] < found[0]
    backbone = load_backbone("mae_vit_mini", undisturbed / "weights.safetensors", 32)
    with torch.no_grad():
        assert backbone(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)).isfinite().all()
    pictures = sorted(file.name for file in (undisturbed / "pictures").iterdir())
    assert pictures == ["epoch_0002.png", "epoch_0004.png"]
    with Image.open(undisturbed / "pictures" / pictures[-1]) as picture:
        assert picture.size == (8 * 33 - 1, 3 * 33 - 1)
        assert np.asarray(picture).std() > 10
    with (undisturbed / "failed_images.csv").open(newline="") as file:
        rows = {row["image"].split("/")[0]: row["reason"] for row in csv.DictReader(file)}
    assert rows == BROKEN
    environment = json.loads((undisturbed / "environment.json").read_text())
    assert environment["machine"]["cpus"] == os.cpu_count()
    assert "SECRET" not in (undisturbed / "environment.json").read_text()


def test_a_finished_one_is_not_trained_again(undisturbed, faces, ray_address, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "connect", None)  # not even Ray is asked
    assert pretrain.main(words(faces, undisturbed, ray_address)) == 0
    assert "extract.py" in capsys.readouterr().out


def test_two_workers_one_of_them_killed_train_what_one_does(
    undisturbed, faces, ray_address, tmp_path, capsys
):
    out = tmp_path / "mae"
    ended: list[int] = []

    def run() -> None:
        ended.append(pretrain.main(words(faces, out, ray_address, "--workers", "2")))

    with connect(ray_address) as cluster:
        dashboard = cluster.dashboard
    thread = threading.Thread(target=run)
    thread.start()
    wait_until((out / "checkpoint.safetensors").exists, 120, lambda: list(tmp_path.rglob("*")))
    workers = actors(dashboard)["RayTrainWorker"]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    thread.join(120)
    assert ended == [0]
    assert "going on after epoch" in capsys.readouterr().out
    np.testing.assert_allclose(losses(out), losses(undisturbed), rtol=1e-4)
    with connect(ray_address):
        wait_until(lambda: not actors(dashboard), 30, lambda: actors(dashboard))
        assert not placement_groups(dashboard)


def test_ctrl_c_and_the_same_command_goes_on(undisturbed, faces, ray_address, tmp_path, capsys):
    out, output = tmp_path / "mae", tmp_path / "output.txt"
    given = words(faces, out, ray_address)
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *given],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_until((out / "checkpoint.safetensors").exists, 120, output.read_text)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130, output.read_text()
        finally:
            process.kill()
            process.wait()
    assert "goes on after the last epoch" in output.read_text()
    assert pretrain.main(given) == 0
    assert losses(out) == losses(undisturbed)
    assert (out / "weights.safetensors").read_bytes() == (
        undisturbed / "weights.safetensors"
    ).read_bytes()


def supervised(faces: Path, out: Path, address: str, *more: str) -> list[str]:
    given = ["--method", "supervised", "--images", str(faces / "cropped_aligned")]
    given += ["--out", str(out), "--address", address]
    small = ["backbone=timm:resnet10t", "size=32", "training.epochs=2", "training.batch_images=16"]
    return [*given, *small, *more]


def test_a_supervised_one_keeps_its_best_epoch_on_select(faces, ray_address, tmp_path, capsys):
    out = tmp_path / "supervised"
    annotations = ["--annotations", str(faces / "annotations")]
    assert pretrain.main(supervised(faces, out, ray_address, *annotations)) == 0
    with (out / "progress.csv").open(newline="") as file:
        progress = list(csv.DictReader(file))
    kept = json.loads((out / "scores.json").read_text())
    totals = [
        (float(row["score_valence"]) + float(row["score_arousal"])) / 2
        + float(row["score_expression"])
        + float(row["score_action_units"])
        for row in progress
    ]
    assert kept["epoch"] == 1 + int(np.argmax(totals))
    assert "select P" in capsys.readouterr().out
    assert load_backbone("timm:resnet10t", out / "weights.safetensors", 32).width == 512


def test_a_loss_that_is_not_finite_ends_it_with_its_own_words(faces, ray_address, tmp_path):
    given = supervised(faces, tmp_path / "bad", ray_address, "optim.base_lr=1e30")
    labels = tmp_path / "labels.csv"
    files = sorted((faces / "cropped_aligned" / "video003").iterdir())[:8]
    rows = [f"video003/{file.name},{n % 2}" for n, file in enumerate(files)]
    labels.write_text("\n".join(["image,AU1", *rows]))
    given += ["--labels", str(labels), "tasks=[action_units]", "training.batch_images=4"]
    given += ["optim.gradient_clip=0.0", "optim.warmup_epochs=0", "training.epochs=20"]
    assert pretrain.main(given) == 1
    with pytest.raises(InputError, match="holds another pretraining"):
        pretrain.main([*given, "training.seed=3"])


def test_more_workers_than_fit_are_refused(faces, ray_address, tmp_path):
    with pytest.raises(InputError, match=r"--workers 999 x \(--cpus 1\) is more than there is"):
        pretrain.main(words(faces, tmp_path / "mae", ray_address, "--workers", "999"))
