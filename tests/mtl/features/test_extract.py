"""Tests of part files: content, independence of batch size and threads, and failed images."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mtl.dataset import read_features
from mtl.errors import InputError
from mtl.features.extract import MAX_BATCHES_AHEAD, Extractor, FeaturePart, read_failed
from mtl.features.face_crops import BrokenImage, CropFrames, Images, frames_of

SIZE = 4


class Means(nn.Module):
    """Backbone with known features: the image's mean colour, twice."""

    name, size, width = "means", SIZE, 6

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def transform(self, image: Image.Image) -> np.ndarray:
        return np.array(image.resize((SIZE, SIZE)))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.scale * pixels.float().mean((1, 2)).repeat(1, 2)


class Painted(Images):
    """Images without files: each has one colour, and those with a number in ``broken`` fail."""

    broken: tuple[int, ...] = ()

    def read(self, i: int) -> Image.Image:
        number = int(self.file(i)[-9:-4])
        if number in self.broken:
            raise BrokenImage(self.file(i), "truncated")
        return Image.new("RGB", (9, 9), (number, 2 * number, 0))

    def take(self, rows: np.ndarray) -> Images:
        return type(self)(self.address, super().take(rows).files)


def painted(count: int, *broken: int) -> CropFrames:
    files = pa.array([f"v{i % 2}/{i:05d}.jpg" for i in range(1, count + 1)], pa.string())
    kind = type("Painted", (Painted,), {"broken": broken})
    return frames_of(kind("faces", files))


def stored(part: FeaturePart, folder: Path, number: int = 0) -> Path:
    file = folder / f"part-{number:05d}.parquet"
    file.write_bytes(part.content)
    return file


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("threads", [1, 3])
def test_parts_are_a_feature_set_whatever_the_batch(tmp_path, batch, threads):
    frames = painted(21)
    extractor = Extractor(Means().eval(), batch, threads)
    for number, rows in enumerate((range(8), range(8, 16), range(16, 21))):
        part = extractor.part(frames, rows)
        assert part.failed == 0
        assert read_failed(stored(part, tmp_path, number)) == []
    videos = list(read_features(tmp_path))
    assert [name for name, _, _ in videos] == ["v0", "v1"]
    for name, numbers, values in videos:
        assert numbers.tolist() == [i for i in range(1, 22) if f"v{i % 2}" == name]
        assert values.dtype == np.float16
        expected = np.stack([numbers, 2 * numbers, 0 * numbers] * 2, 1)
        assert np.array_equal(values, expected)


def test_the_same_bytes_each_time():
    parts = {Extractor(Means(), 4, threads).part(painted(9, 5), range(9)) for threads in (1, 2, 2)}
    assert len(parts) == 1


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_broken_images_are_listed_in_the_part(tmp_path, batch):
    part = Extractor(Means(), batch, 2).part(painted(6, 1, 2, 4), range(6))
    assert part.failed == 3
    # The rows are frames 2, 4, 6 of v0, then frames 1, 3, 5 of v1.
    expected = [(f"v{i % 2}/{i:05d}.jpg", "truncated") for i in (2, 4, 1)]
    assert read_failed(stored(part, tmp_path)) == expected
    found = {name: frame.tolist() for name, frame, _ in read_features(tmp_path)}
    assert found == {"v0": [6], "v1": [3, 5]}


def test_a_part_without_any_image_is_empty_and_still_read(tmp_path):
    frames = painted(4, 2, 4)
    extractor = Extractor(Means(), 2, 1)
    assert extractor.part(frames, range(2)).failed == 2
    stored(extractor.part(frames, range(2)), tmp_path)
    stored(extractor.part(frames, range(2, 4)), tmp_path, 1)
    assert [(name, frame.tolist()) for name, frame, _ in read_features(tmp_path)] == [
        ("v1", [1, 3])
    ]


@pytest.mark.filterwarnings("error")
def test_images_with_features_beyond_float16_are_listed(tmp_path):
    backbone = Means()
    backbone.scale.data.fill_(2000.0)
    part = Extractor(backbone, 2, 1).part(painted(40), range(40))
    failed = dict(read_failed(stored(part, tmp_path)))
    # 2000 x 2 x 17 is beyond 65504.
    assert set(failed) == {f"v{i % 2}/{i:05d}.jpg" for i in range(17, 41)}
    assert failed["v1/00017.jpg"] == "feature 2 of 6 is inf in float16"
    assert failed["v1/00033.jpg"] == "feature 1 of 6 is inf in float16"


def test_another_failure_is_not_listed_but_raised():
    class Denied(Painted):
        def read(self, i: int) -> Image.Image:
            raise InputError("cannot read faces/v0/00002.jpg (denied): make it readable")

    frames = frames_of(Denied("faces", pa.array(["a/00001.jpg", "a/00002.jpg"])))
    with pytest.raises(InputError, match="denied"):
        Extractor(Means(), 1, 1).part(frames, range(2))


def test_threads_are_no_more_than_some_batches_ahead():
    read, ahead, lock = [0], [], threading.Lock()

    class Counted(Painted):
        def read(self, i: int) -> Image.Image:
            with lock:
                read[0] += 1
            return super().read(i)

    class Slow(Means):
        done = 0

        def forward(self, pixels: Tensor) -> Tensor:
            ahead.append(read[0] - self.done)
            self.done += len(pixels)
            return super().forward(pixels)

    frames = frames_of(Counted("faces", pa.array([f"a/{i:05d}.jpg" for i in range(60)])))
    Extractor(Slow(), 5, 4).part(frames, range(60))
    assert len(ahead) == 12
    assert max(ahead) <= 5 * (MAX_BATCHES_AHEAD + 2)


def test_half_precision_is_close_but_not_the_same(tmp_path):
    class Linear(Means):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, pixels: Tensor) -> Tensor:
            values: Tensor = self.layer(super().forward(pixels) / 10)
            return values

    backbone = Linear()
    found = []
    for precision in (torch.float32, torch.bfloat16):
        part = Extractor(backbone, 4, 1, precision).part(painted(8), range(8))
        stored(part, tmp_path)
        found.append(np.concatenate([values for _, _, values in read_features(tmp_path)]))
    assert not np.array_equal(*found)
    np.testing.assert_allclose(*found, atol=0.05)
