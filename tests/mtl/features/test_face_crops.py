"""Tests of reading images, of broken images, and of the videos and frames of images."""

import errno
import io
import pickle
import shutil
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from PIL import Image

from mtl.dataset.annotations import read_annotations
from mtl.errors import InputError
from mtl.features import face_crops as module
from mtl.features.face_crops import BrokenImage, Images, decode, find_images, frames_of
from tests.support.pictures import encoded, put


def detailed(exif: bytes = b"") -> bytes:
    """Return a JPEG of noise, so large that a part of it can be replaced by zeros."""
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, "JPEG", exif=exif)
    return content.getvalue()


def named(*files: str) -> Images:
    return Images("faces", pa.array(files, pa.string()))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("PNG", mode) for mode in ("RGB", "RGBA", "P", "1")),
        *(("BMP", "L"), ("WEBP", "RGB")),
    ],
)
def test_every_format_comes_in_rgb(kind, mode):
    content = encoded(kind, mode)
    found = decode("a/1.jpg", content)
    assert found.mode == "RGB"
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    assert np.array_equal(np.asarray(found), np.asarray(expected))


def test_a_picture_of_16_bits_is_refused_not_clipped():
    stream = io.BytesIO()
    Image.new("I;16", (4, 4), 40_000).save(stream, "PNG")
    with pytest.raises(BrokenImage, match=r"more than 8 bits a colour \(PIL's mode I;16\)"):
        decode("deep.png", stream.getvalue())


def test_a_transparent_palette_is_no_warning():
    palette = Image.new("P", (4, 4))
    content = io.BytesIO()
    palette.save(content, "PNG", transparency=bytes([0] * 128))
    assert decode("a/1.png", content.getvalue()).mode == "RGB"


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_is_turned_upright_by_its_exif_data(kind):
    plain, upside_down, unclear = (
        np.asarray(decode("a/1.jpg", encoded(kind, exif=exif)))
        for exif in (b"", turned(3), b"Exif\0\0nonsense")
    )
    assert np.array_equal(upside_down, plain[::-1, ::-1])
    assert np.array_equal(unclear, plain)


def png_with_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + encoded("PNG")[33:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (encoded("GIF", "P"), "not an image"),
        (encoded()[:-80], "truncated"),
        (detailed()[:-400] + bytes(400), "truncated"),
        (detailed(exif=b"Exif\0\0" + encoded())[:-400] + bytes(400), "truncated"),
        (encoded()[:20], "not an image|truncated|damaged"),
        (encoded("PNG")[:-30], "truncated"),
        (encoded("BMP")[:200], "truncated"),
        (encoded("WEBP")[:-40], "not an image|truncated|damaged"),
        (png_with_header(9_000, 9_000), "too large .9000 x 9000 pixels"),
        (png_with_header(40_000, 40_000), "too large"),
        (png_with_header(2**31 - 1, 2**31 - 1), "too large|not an image|damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_a_broken_image_is_an_error_with_its_reason(tmp_path, content, reason):
    root = put(tmp_path, "a/1.jpg", content=content)
    with pytest.raises(BrokenImage, match=rf"^a/1.jpg: ({reason})") as caught:
        find_images(root).read(0)
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


def test_what_follows_the_end_of_a_picture_does_not_matter():
    content = encoded()
    assert decode("a/1.jpg", content + b"\xff\xda" + bytes(80)).tobytes() == (
        decode("a/1.jpg", content).tobytes()
    )


def test_a_missing_image_is_broken_and_a_missing_folder_is_an_input_error(tmp_path):
    root = put(tmp_path / "faces", "a/1.jpg", "a/2.jpg", "b/1.jpg")
    images = find_images(root)
    (root / "a" / "1.jpg").unlink()
    (root / "a" / "2.jpg").unlink()
    (root / "a" / "2.jpg").mkdir()
    shutil.rmtree(root / "b")
    (root / "b").write_text("no folder any more")
    for i, reason in enumerate(
        ("missing", "unreadable .*directory", "unreadable .Not a directory")
    ):
        with pytest.raises(BrokenImage, match=reason):
            images.read(i)
    root.rename(tmp_path / "aside")
    for _ in range(2):
        with pytest.raises(InputError, match=r"faces does not exist or is empty on \S+: mount it"):
            images.read(0)
        root.mkdir(exist_ok=True)  # where a disk was mounted


class Failing:
    """File system that raises an error for every file."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def open_input_stream(self, path: str) -> None:
        raise self.error


class FailingLocally(Failing, pafs.LocalFileSystem):
    """Local file system that raises an error for every file."""

    def __new__(cls, error: OSError) -> "FailingLocally":
        made: FailingLocally = pafs.LocalFileSystem.__new__(cls)
        return made


@pytest.mark.parametrize(
    ("filesystem", "kind", "message"),
    [
        (
            FailingLocally(PermissionError(errno.EACCES, "Failed to open local file")),
            *(BrokenImage, r"^a/1.jpg: unreadable \(Permission denied\)$"),
        ),
        (
            FailingLocally(OSError(errno.EMFILE, "Too many open files")),
            *(InputError, r"cannot read .*/a/1.jpg \(.*Too many open files\)"),
        ),
        (
            Failing(PermissionError("When reading bucket/a: ACCESS_DENIED.\nmore")),
            *(InputError, r"cannot read .*/a/1.jpg \(.*ACCESS_DENIED\)"),
        ),
    ],
)
def test_one_file_that_is_unreadable_is_broken_and_a_network_is_not(
    tmp_path, monkeypatch, filesystem, kind, message
):
    images = find_images(put(tmp_path, "a/1.jpg"))
    monkeypatch.setattr(module, "_resolve", lambda address: (filesystem, str(tmp_path)))
    with pytest.raises(kind, match=message):
        images.read(0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_damaged_bytes_are_an_image_or_broken(kind):
    random = np.random.default_rng(0)
    whole = np.frombuffer(encoded(kind), np.uint8)
    for _ in range(100):
        bytes_ = whole.copy()
        bytes_[random.integers(0, len(whole), 4)] = random.integers(0, 256, 4)
        with suppress(BrokenImage):
            decode("a/1.jpg", bytes_[: random.integers(1, len(whole) + 1)].tobytes())


def test_frames_are_sorted_by_video_then_number():
    found = frames_of(named("b/2.jpg", "b/10.jpg", "a/x/face_0007.png", "a/00003.jpg", "B/1.jpg"))
    assert found.names == ("B", "a", "a/x", "b")
    assert found.video.tolist() == [0, 1, 2, 3, 3]
    assert found.frame.tolist() == [1, 3, 7, 2, 10]
    assert found.images.files.to_pylist()[-2:] == ["b/2.jpg", "b/10.jpg"]
    assert found.missing_images == ()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a/00001.jpg", "a/face.jpg"), "faces: a/face.jpg has no frame number: its name must"),
        (("00001.jpg",), "faces: 00001.jpg is in no video's folder: .* as video/00001.jpg"),
        (("a/1.jpg", "a/2.jpg", "a/0002.png"), "a/2.jpg and a/0002.png are images of one frame"),
        (("a/2147483648.jpg",), r"2147483648 of a/2147483648.jpg is beyond 2\^31 - 1"),
    ],
)
def test_names_that_are_no_frames_are_refused(files, message):
    with pytest.raises(InputError, match=message) as caught:
        frames_of(named(*files))
    assert "\n" not in str(caught.value)


def challenge(folder: Path, train: tuple[str, ...], test: tuple[str, ...] = ()) -> Path:
    folder.mkdir()
    labels = ",0.5,-5,1," + ",".join(["-1"] * 12)
    for split, images in (("training", train), ("validation", ("v/00001.jpg",))):
        text = "".join(f"{image}{labels}\n" for image in images)
        (folder / f"{split}_set_annotations.txt").write_text(text)
    (folder / "test_set_release.txt").write_text("".join(f"{image}\n" for image in test))
    return folder


def test_only_the_listed_frames_are_kept_and_those_without_an_image_are_named(tmp_path):
    folder = challenge(tmp_path / "annotations", ("b/00002.jpg", "b/00004.jpg"), ("x/00001.jpg",))
    images = named("a/00001.jpg", "b/00001.jpg", "b/00002.png", "v/00001.jpg")
    found = frames_of(images, read_annotations(folder))
    assert found.images.files.to_pylist() == ["b/00002.png", "v/00001.jpg"]
    assert (found.names, found.video.tolist()) == (("b", "v"), [0, 1])
    assert found.missing_images == ("b/00004.jpg", "x/00001.jpg")
    with pytest.raises(
        InputError, match=r"no image of the 4 listed frames \(the annotation files list b/00002"
    ):
        frames_of(named("a/00001.jpg"), read_annotations(folder))


def test_frames_are_small_when_pickled_and_read_back():
    many = named(*(f"video_{i // 1000:03d}/{i % 1000:05d}.jpg" for i in range(20_000)))
    frames = frames_of(many)
    content = pickle.dumps(frames)
    assert len(content) < 40 * len(many)
    again = pickle.loads(content)
    assert again.images.files.equals(many.files)
    assert np.array_equal(again.frame, frames.frame)
