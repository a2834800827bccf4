"""Tests of the extraction benchmark: its rate, and the same images on both sides."""

import importlib
from types import ModuleType

import pytest

from mtl.features.face_crops import find_images
from tests.support.paths import ROOT

PROGRAMS = ROOT / "benchmarks"


@pytest.fixture
def extraction(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Extraction benchmark as a module; it imports other scripts from its own folder."""
    monkeypatch.syspath_prepend(PROGRAMS)
    return importlib.import_module("extraction")


def test_the_rate_excludes_the_first_quarter(extraction):
    # 10 images/s after a start of 100 s; the last part takes 3 s longer.
    arrivals = [(100.0 + i, 10) for i in range(1, 11)] + [(114.0, 10)]
    assert extraction.steady_rate(arrivals) == pytest.approx(80 / 11)
    assert extraction.steady_rate(arrivals, 20) == pytest.approx(60 / 11)


def test_made_images_are_reproducible_and_grouped_by_video(extraction, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "VIDEO_FRAMES", 3)
    first, second = (find_images(extraction.make_images(tmp_path / n, 5)) for n in ("a", "b"))
    assert first.files.to_pylist() == [f"v0000/0000{i}.jpg" for i in (1, 2, 3)] + [
        f"v0001/0000{i}.jpg" for i in (1, 2)
    ]
    assert first.read(4).tobytes() == second.read(4).tobytes() != first.read(3).tobytes()
    assert first.read(0).size == (112, 112)


@pytest.mark.extended
@pytest.mark.slow
@pytest.mark.ray
def test_both_sides_run_over_all_images(extraction, tmp_path, ray_address):
    images = extraction.make_images(tmp_path, 12)
    loop = extraction.alone(extraction.looped, images, "mae_vit_mini", 5, 2, 1)
    ours = extraction.alone(extraction.extracted, images, "mae_vit_mini", 5, 4, 2, ray_address)
    assert [count for _, count in loop] == [5, 5, 2]
    assert [count for _, count in ours] == [4, 4, 4]
