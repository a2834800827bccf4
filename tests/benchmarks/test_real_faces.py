"""Tests of the benchmark on real faces: its functions on made-up data, and on the videos."""

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest
import torch

from mtl.errors import InputError
from mtl.features.face_crops import CropFrames, Images, find_images, frames_of
from mtl.features.mae import patchify
from tests.support.paths import ROOT

PROGRAM = ROOT / "benchmarks" / "real_faces.py"
PACKAGES = ROOT / "build" / "real-faces"


@pytest.fixture(scope="module")
def real_faces() -> ModuleType:
    """Benchmark program as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_real_faces", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def frames_like(**counts: int) -> CropFrames:
    """Return the frames of videos by name and number of frames, without images."""
    names = tuple(sorted(counts))
    video = np.repeat(np.arange(len(names), dtype=np.int32), [counts[n] for n in names])
    frame = np.concatenate([np.arange(1, counts[n] + 1, dtype=np.int32) for n in names])
    return CropFrames(Images("nowhere", pa.array([""] * len(frame))), names, video, frame)


def test_boxes_are_squares_inside_the_picture(real_faces):
    for clip in real_faces.CLIPS.values():
        for frame in range(clip.start, clip.stop):
            left, top, right, bottom = real_faces.crop_box(clip, frame, 640, 360)
            assert right - left == bottom - top == round(clip.side * 360)
            assert 0 <= left < right <= 640
            assert 0 <= top < bottom <= 360


def test_a_box_moves_evenly_between_its_measures_and_stops_at_the_edge(real_faces):
    clip = real_faces.Clip("x", 10, 100, 0.5, x=(0.4, 0.5, 1.0), y=(0.5, 0.5, 0.5))
    lefts = [real_faces.crop_box(clip, n, 200, 100)[0] for n in (10, 22, 34, 58, 99)]
    assert lefts == [80 - 25, 90 - 25, 100 - 25, 150, 150]


@pytest.mark.parametrize("frames", [32, 72, 236, 1001])
def test_division_in_time_leaves_a_gap(real_faces, frames):
    rows = np.arange(1000, 1000 + frames)
    train, held_out = real_faces.divide_in_time(rows)
    assert train[0] == rows[0]
    assert held_out[-1] == rows[-1]
    assert len(train) == int(0.7 * frames)
    assert len(held_out) == int(0.2 * frames)
    assert held_out[0] - train[-1] - 1 >= 0.1 * frames


def test_one_copy_of_each_recording_is_used(real_faces):
    counts = {"WolfgangLanger_Pexels": 50, "face_noface": 40, "noface_face": 40, "single_face": 40}
    frames = frames_like(**counts)
    later, other = real_faces.divide(frames)
    shown = [
        {frames.names[v] for v in frames.video[rows]} for rows in (other.train, other.held_out)
    ]
    assert shown == [{"WolfgangLanger_Pexels"}, {"single_face"}]
    for rows in (later.train, later.held_out):
        assert {frames.names[v] for v in frames.video[rows]} == shown[0] | shown[1]
    assert not set(later.train) & set(later.held_out)
    assert (len(other.train), len(other.held_out)) == (50, 40)


def test_one_recording_is_divided_in_time_only(real_faces):
    splits = real_faces.divide(frames_like(face_noface=40, noface_face=40))
    assert [(s.name, len(s.train), len(s.held_out)) for s in splits] == [("later frames", 28, 8)]


def test_baselines_equal_a_loop(real_faces):
    random = np.random.default_rng(0)
    images = random.normal(size=(3, 3, 8, 8))
    removed = random.random((3, 4)) < 0.5
    removed[:, 0], removed[:, 1] = True, False
    predicted = random.normal(size=(8 // 4 * 8 // 4, 4 * 4 * 3))  # one patch per position
    visible, given = [], []
    for b in range(3):
        places = [(row, column) for row in (0, 4) for column in (0, 4)]
        cut = [images[b, :, r : r + 4, c : c + 4] for r, c in places]
        colour = np.mean(
            [p.mean((1, 2)) for p, is_gone in zip(cut, removed[b], strict=True) if not is_gone], 0
        )
        hidden = [n for n in range(4) if removed[b, n]]
        visible.append(np.mean([(cut[n] - colour[:, None, None]) ** 2 for n in hidden]))
        patches = predicted.reshape(4, 4, 4, 3).transpose(0, 3, 1, 2)
        given.append(np.mean([(cut[n] - patches[n]) ** 2 for n in hidden]))
    target, gone = patchify(torch.from_numpy(images), 4), torch.from_numpy(removed)
    mean = real_faces.visible_colour(target, gone)
    np.testing.assert_allclose(real_faces.removed_error(target, mean, gone), visible)
    errors = real_faces.removed_error(target, torch.from_numpy(predicted), gone)
    np.testing.assert_allclose(errors, given)


def test_the_interval_is_over_blocks(real_faces):
    random = np.random.default_rng(0)
    baseline, video = random.uniform(1, 2, 60), np.repeat([0, 1], [40, 20])
    assert real_faces.ratio(0.5 * baseline, baseline, video) == pytest.approx((0.5, 0.5, 0.5))
    # Noise that is constant over a block gives a wider interval than the same noise shuffled.
    block = np.repeat(random.normal(size=12), 5)
    widths = []
    for noise in (block, random.permutation(block)):
        middle, low, high = real_faces.ratio(baseline * (0.5 + 0.1 * noise), baseline, video)
        assert low < middle < high
        widths.append(high - low)
    assert widths[0] > 1.3 * widths[1]
    few = np.zeros(45)
    assert real_faces.ratio(few + 1, few + 2, few) == pytest.approx(
        (0.5, np.nan, np.nan), nan_ok=True
    )


def test_a_missing_baseline_is_left_out_of_the_table(real_faces):
    frames = frames_like(WolfgangLanger_Pexels=60, single_face=50)
    split = real_faces.divide(frames)[1]
    errors = {name: np.ones(50) for name in ("mae", "visible", "training")}
    (row,) = real_faces.summary(frames, split, errors | {"recording": np.full(50, np.nan)})
    assert row["ratio_visible"] == [1, 1, 1]
    assert "recording" not in row
    assert "| other person | single_face | 50 (60) | 1.000 |" in real_faces.table([row])
    assert "| 1.000 | 1.00 [1.00, 1.00] |" in real_faces.table([row])
    assert real_faces.table([row]).endswith("| - | - |")
    row["ratio_visible"] = [1.0]
    assert "| 1.000 | 1.00 | 1.000 | 1.00 [1.00, 1.00] |" in real_faces.table([row])


def test_a_folder_without_the_videos_is_refused(real_faces, tmp_path):
    (tmp_path / "no_face.mp4").touch()
    with pytest.raises(InputError, match=r"none of the videos single_face.* make real-faces"):
        real_faces.find_videos(tmp_path)


def test_the_program_reports_missing_videos_in_one_line(real_faces, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["real_faces.py", "--packages", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        real_faces.run_program(real_faces.main)
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1


@pytest.mark.skipif(not PACKAGES.is_dir(), reason="no build/real-faces: make real-faces makes it")
def test_real_faces_are_cropped_and_learned(real_faces, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(PACKAGES)
    clips = {name: real_faces.CLIPS[name] for name in ("noface_face", "WolfgangLanger_Pexels")}
    monkeypatch.setattr(real_faces, "CLIPS", clips)
    real_faces.write_crops(real_faces.find_videos(PACKAGES), tmp_path, real_faces.LEAST_FRAMES)
    frames = frames_of(find_images(tmp_path))
    assert np.bincount(frames.video).tolist() == [32, 24]
    assert frames.frame[[0, 1, 32, 55]].tolist() == [1, 16, 97, 166]
    crops = [np.asarray(frames.images.read(i)) for i in range(len(frames))]
    # Faces are bright and more red than blue, unlike the sky and the black borders.
    assert all(crop.shape == (112, 112, 3) and crop.mean() > 60 for crop in crops)
    assert all(crop[..., 0].mean() > crop[..., 2].mean() for crop in crops)
    for split in real_faces.divide(frames):
        objective, loss = real_faces.train(
            frames.images.take(split.train), real_faces.mae_config(2)
        )
        errors = real_faces.held_out_errors(objective, frames, split)
        assert np.isfinite([loss, *errors["mae"], *errors["visible"], *errors["training"]]).all()
        assert np.isnan(errors["recording"]).all() == (split.name == "other person")
