"""Images: found in any folder, read or named as broken, taken as the frames of videos."""

import errno
import io
import os
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

from mtl.affwild2 import read_annotations
from mtl.errors import InputError
from mtl.features import images as module
from mtl.features.image_files import is_mounted, list_files
from mtl.features.images import (
    BrokenImage,
    Images,
    decode,
    find_images,
    frames_of,
    images_address,
)


def encoded(
    kind: str = "JPEG", mode: str = "RGB", size: int = 24, seed: int = 0, exif: bytes = b""
) -> bytes:
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    content = io.BytesIO()
    small.resize((size, size)).convert(mode).save(content, kind, exif=exif)
    return content.getvalue()


def detailed(exif: bytes = b"") -> bytes:
    """A JPEG of noise: of any bytes in their place zeros are an image too, if not the same."""
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
    Image.fromarray(noise).save(content, "JPEG", exif=exif)
    return content.getvalue()


def put(root: Path, *files: str, content: bytes | None = None) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(encoded() if content is None else content)
    return root


def named(*files: str) -> Images:
    return Images("faces", pa.array(files, pa.string()))


def test_images_are_found_in_path_order_wherever_they_lie(tmp_path):
    root = put(tmp_path / "faces", "b/2.JPG", "a/x/1.png", "b/10.jpeg", "top.webp", "a/1.bmp")
    put(root, "b/notes.txt", "b/._2.jpg", ".cache/1.jpg")
    (root / "b" / "folder.jpg").mkdir()
    expected = ["a/1.bmp", "a/x/1.png", "b/10.jpeg", "b/2.JPG", "top.webp"]
    addresses = (root, f"{root}/", root.as_uri(), f"{tmp_path}/faces/../faces")
    for address in addresses:
        found = find_images(address)
        assert found.files.to_pylist() == expected
        assert len(found) == 5
        assert found.read(0).size == (24, 24)
    assert find_images(root).take([4, 0]).files.to_pylist() == ["top.webp", "a/1.bmp"]


def test_what_is_left_out_is_said(tmp_path):
    root = put(tmp_path / "faces", "a/1.jpg", "a/.hidden.tif", ".cache/2.tif")
    assert find_images(root).left_out == ""
    put(root, "a/2.tif", "b/1.gif")
    (root / "c" / "d").mkdir(parents=True)
    os.mkfifo(root / "a" / "2.jpg")
    (root / "a" / "3.jpg").symlink_to(root / "a" / "2.jpg")
    found = find_images(root)
    assert found.files.to_pylist() == ["a/1.jpg"]
    assert found.left_out == (
        "left out 4 files that are no images (such as a/2.jpg) "
        "and 2 folders without images (such as b)"
    )


def test_a_remote_file_system_is_listed_as_a_disk_is(tmp_path):
    root = put(tmp_path / "faces", "b/1.JPG", "a/x/1.png", "a/notes.txt", ".cache/1.jpg")
    remote = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    found = list_files(remote, "faces", "s3://bucket/faces")
    assert [sorted(paths) for paths in found] == [["a/x/1.png", "b/1.JPG"], ["a/notes.txt"], []]
    local = list_files(pafs.LocalFileSystem(), str(root), str(root))
    assert [sorted(paths) for paths in local] == [sorted(paths) for paths in found]
    assert is_mounted(remote, "faces", "s3://bucket/faces")
    assert not is_mounted(remote, "gone", "s3://bucket/gone")


def test_links_are_followed_but_not_round_and_those_to_nothing_are_missing(tmp_path):
    root = put(tmp_path / "data" / "faces", "a/1.jpg", "b/c/1.jpg")
    elsewhere = put(tmp_path / "elsewhere", "1.jpg", "more/1.jpg")
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "itself.jpg").symlink_to(root / "itself.jpg")
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root / "b")
    (root / "b" / "round").symlink_to(elsewhere)
    for loop in (root / "b" / "c" / "up", root / "a" / "higher"):
        loop.symlink_to(root.parent if loop.name == "higher" else root)
    found = find_images(root)
    assert found.files.to_pylist() == [
        *("a/1.jpg", "b/c/1.jpg", "b/round/1.jpg", "b/round/more/1.jpg", "gone.jpg", "itself.jpg"),
        *("linked/1.jpg", "linked/back/c/1.jpg", "linked/more/1.jpg"),
    ]
    for i, reason in ((4, "missing"), (5, "unreadable .Too many levels of symbolic links")):
        with pytest.raises(BrokenImage, match=reason):
            found.read(i)


def test_a_name_that_is_not_utf8_is_one_sentence(tmp_path):
    root = put(tmp_path, "a/1.jpg")
    with open(os.fsencode(root / "a") + b"/2\xff.txt", "wb"):  # noqa: PTH123
        pass
    assert find_images(root).left_out.endswith(r"(such as a/2\udcff.txt)")
    with open(os.fsencode(root / "a") + b"/2\xff.jpg", "wb"):  # noqa: PTH123
        pass
    with pytest.raises(InputError, match=r"the file name a/2\\udcff.jpg is not UTF-8: rename it"):
        find_images(root)


def test_a_folder_that_cannot_be_listed_is_said(tmp_path, monkeypatch):
    root, scandir = put(tmp_path, "a/1.jpg", "b/1.jpg"), os.scandir

    def denied(path: str) -> object:
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"cannot list .*/b/ \(Permission denied\): check it"):
        find_images(root)


def test_an_address_means_the_same_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for address, expected in {
        "~/faces": f"{tmp_path}/home/faces",
        "faces": f"{tmp_path}/faces",
        "s3://bucket/~/faces": "s3://bucket/~/faces",
    }.items():
        assert images_address(address) == expected
    with pytest.raises(InputError, match="~nobody_here/faces is below no user's folder"):
        images_address("~nobody_here/faces")


def test_where_there_are_none_it_says_what_there_is(tmp_path):
    put(tmp_path, "numbers/a/1.npy", "numbers/a/2.npy", "numbers/b.txt", content=b"1")
    (tmp_path / "empty").mkdir()
    for address, message in {
        "numbers": r"holds no images \(.jpg .* but 2 \.npy files, such as a/1.npy: give",
        "empty": "holds no images .* and no other files",
        "nowhere": "nowhere does not exist: give the folder",
        "numbers/b.txt": "is a file: give the folder",
    }.items():
        with pytest.raises(InputError, match=message):
            find_images(tmp_path / address)


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


def test_a_picture_of_16_bits_is_refused_not_cut():
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
def test_it_is_turned_as_its_exif_says(kind):
    plain, upside_down, unclear = (
        np.asarray(decode("a/1.jpg", encoded(kind, exif=exif)))
        for exif in (b"", turned(3), b"Exif\0\0nonsense")
    )
    assert np.array_equal(upside_down, plain[::-1, ::-1])
    assert np.array_equal(unclear, plain)


def png_that_says(width: int, height: int) -> bytes:
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
        (png_that_says(9_000, 9_000), "too large .9000 x 9000 pixels"),
        (png_that_says(40_000, 40_000), "too large"),
        (png_that_says(2**31 - 1, 2**31 - 1), "too large|not an image|damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_what_is_broken_is_said(tmp_path, content, reason):
    root = put(tmp_path, "a/1.jpg", content=content)
    with pytest.raises(BrokenImage, match=rf"^a/1.jpg: ({reason})") as caught:
        find_images(root).read(0)
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


def test_what_follows_the_end_of_a_picture_does_not_matter():
    content = encoded()
    assert decode("a/1.jpg", content + b"\xff\xda" + bytes(80)).tobytes() == (
        decode("a/1.jpg", content).tobytes()
    )


def test_an_image_that_cannot_be_had_is_broken_but_not_where_all_are_gone(tmp_path):
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
        with pytest.raises(InputError, match=r"faces is not there, or empty, on \S+: mount it"):
            images.read(0)
        root.mkdir(exist_ok=True)  # where a disk was mounted


class Failing:
    """A file system of which nothing can be read."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def open_input_stream(self, path: str) -> None:
        raise self.error


class FailingHere(Failing, pafs.LocalFileSystem):
    """One of this machine."""

    def __new__(cls, error: OSError) -> "FailingHere":
        made: FailingHere = pafs.LocalFileSystem.__new__(cls)
        return made


@pytest.mark.parametrize(
    ("filesystem", "kind", "message"),
    [
        (
            FailingHere(PermissionError(errno.EACCES, "Failed to open local file")),
            *(BrokenImage, r"^a/1.jpg: unreadable \(Permission denied\)$"),
        ),
        (
            FailingHere(OSError(errno.EMFILE, "Too many open files")),
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
def test_whatever_happens_to_the_bytes_it_is_an_image_or_broken(kind):
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
    assert found.absent == ()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("a/00001.jpg", "a/face.jpg"), "faces: a/face.jpg has no frame number: its name must"),
        (("00001.jpg",), "faces: 00001.jpg lies in no video's folder: .* as video/00001.jpg"),
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
    assert found.absent == ("b/00004.jpg", "x/00001.jpg")
    with pytest.raises(InputError, match=r"no image of the 4 listed frames \(they list b/00002"):
        frames_of(named("a/00001.jpg"), read_annotations(folder))


def test_they_are_small_and_come_back_from_pickle():
    many = named(*(f"video_{i // 1000:03d}/{i % 1000:05d}.jpg" for i in range(20_000)))
    frames = frames_of(many)
    content = pickle.dumps(frames)
    assert len(content) < 40 * len(many)
    again = pickle.loads(content)
    assert again.images.files.equals(many.files)
    assert np.array_equal(again.frame, frames.frame)
