"""Tests of extraction on Ray: equality with a plain loop, and resumption after a kill."""

import io
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtl.dataset import read_features
from mtl.errors import InputError
from mtl.features.backbones import load_backbone
from mtl.features.face_crops import BrokenImage, find_images, frames_of
from sweeps import extract
from tests.support.small_sweeps import START_SECONDS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BACKBONE = ["--backbone", "mae_vit_mini", "--weights", "random", "--size", "32"]
BROKEN = {
    "a/00003.jpg": "empty",
    "a/00060.jpg": "missing",
    "b/c/00001.jpg": "not an image (none of JPEG, PNG, BMP, WEBP)",
    "b/c/00041.jpg": "truncated",
}
SMALL_CHUNKS = ["--chunk", "2", "--batch", "2"]
KILLED_AFTER_THREE_PARTS = """
import os, signal, sys
from sweeps import extract

write_part, written = extract.write_part, []

def write(*part):
    write_part(*part)
    written.append(part)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

extract.write_part = write
extract.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with 150 frames of three videos; three of the image files are broken."""
    root: Path = tmp_path_factory.mktemp("faces")
    random = np.random.default_rng(0)
    for video, count in (("d", 30), ("b/c", 60), ("a", 60)):
        (root / video).mkdir(parents=True)
        for frame in range(count, 0, -1):
            small = Image.fromarray(random.integers(0, 255, (5, 5, 3), dtype=np.uint8))
            small.resize((48, 48)).save(root / video / f"{frame:05d}.jpg")
    (root / "a/00003.jpg").write_bytes(b"")
    (root / "b/c/00001.jpg").write_text("a text")
    content = (root / "b/c/00041.jpg").read_bytes()
    (root / "b/c/00041.jpg").write_bytes(content[:-200])
    return root


def extract_arguments(images: object, out: Path, address: str, *more: str) -> list[str]:
    places = ["--images", str(images), "--out", str(out), "--address", address]
    return [*places, *BACKBONE, *more]


def features(folder: Path) -> dict[tuple[str, int], np.ndarray]:
    return {
        (video, int(frame)): value
        for video, frames, values in read_features(folder)
        for frame, value in zip(frames, values, strict=True)
    }


def features_by_loop(images: Path) -> dict[tuple[str, int], np.ndarray]:
    """Return features by video and frame, computed image by image without Ray."""
    backbone, found = load_backbone("mae_vit_mini", "random", 32), {}
    frames = frames_of(find_images(images))
    for i, (video, frame) in enumerate(zip(frames.video, frames.frame, strict=True)):
        try:
            pixels = backbone.transform(frames.images.read(i))
        except BrokenImage:
            continue
        with torch.inference_mode():
            value = backbone(torch.from_numpy(pixels)[None])[0].numpy()
        found[frames.names[video], int(frame)] = value
    return found


def assert_equal_to_loop(found: dict[tuple[str, int], np.ndarray], images: Path) -> None:
    expected = features_by_loop(images)
    assert list(found) == sorted(expected)
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], atol=2e-3, rtol=2e-3)


def parts(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.glob("part-*.parquet"))}


@pytest.fixture(scope="module")
def in_small_chunks(faces, ray_address, tmp_path_factory) -> Path:
    """Feature set extracted by two workers from copies of the images at a file:// address.

    The copies are made in another order of files.
    """
    folder: Path = tmp_path_factory.mktemp("small_chunks")
    copies = folder / "copies"
    for file in sorted(faces.rglob("*.jpg"), key=lambda file: file.name[::-1]):
        (copies / file.relative_to(faces)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copies / file.relative_to(faces))
    with redirect_stdout(io.StringIO()):
        arguments = extract_arguments(
            copies.as_uri(), folder / "set", ray_address, *SMALL_CHUNKS, "--workers", "2"
        )
        assert extract.main(arguments) == 0
    return folder / "set"


def test_small_chunks_give_the_features_of_a_plain_loop(faces, in_small_chunks):
    assert len(parts(in_small_chunks)) == 75
    assert_equal_to_loop(features(in_small_chunks), faces)


def test_large_chunks_give_the_same_features_and_broken_images_are_listed(
    faces, ray_address, tmp_path, capsys, monkeypatch
):
    aside, out = tmp_path / "aside", tmp_path / "large"
    more = ("--chunk", "64", "--batch", "7", "--workers", "1")

    @contextmanager
    def moved_after_listing(gone: Path) -> Iterator[None]:
        def find_and_move(address: str) -> object:
            found = find_images(address)
            gone.rename(aside)
            return found

        monkeypatch.setattr(extract, "find_images", find_and_move)
        try:
            yield
        finally:
            aside.rename(gone)

    with (
        moved_after_listing(faces),
        pytest.raises(
            InputError, match=r"^\S+ does not exist or is empty on .*: mount it .* to continue$"
        ),
    ):
        extract.main(extract_arguments(faces, out, ray_address, *more))
    with moved_after_listing(faces / "a/00060.jpg"):
        assert extract.main(extract_arguments(faces, out, ray_address, *more)) == 0
        assert_equal_to_loop(features(out), faces)
    rows = [line.split(",", 1) for line in (out / "failed_images.csv").read_text().splitlines()]
    assert {image: reason.strip('"') for image, reason in rows[1:]} == BROKEN
    printed = capsys.readouterr().out
    assert "150 of 150 frames (100%)" in printed
    assert "4 images failed" in printed
    assert "(146 frames, 128 wide)" in printed


def test_a_killed_extraction_resumes_to_the_same_bytes(
    faces, in_small_chunks, ray_address, tmp_path
):
    out = tmp_path / "killed"
    arguments = extract_arguments(faces, out, ray_address, *SMALL_CHUNKS, "--workers", "1")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AFTER_THREE_PARTS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=START_SECONDS,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("part-*.parquet")}
    assert len(before) == 3
    assert extract.main(arguments) == 0
    assert parts(out) == parts(in_small_chunks)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert (out / "failed_images.csv").read_bytes() == (
        in_small_chunks / "failed_images.csv"
    ).read_bytes()
