"""Tests of finding the images in a folder, and of messages about other files."""

import errno
import os
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from mtl.errors import InputError
from mtl.features.face_crops import BrokenImage, find_images, images_address
from mtl.features.image_folder import is_mounted, list_files
from tests.support.pictures import put


def test_images_of_all_subfolders_are_found_in_path_order(tmp_path):
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


def test_files_that_are_left_out_are_counted(tmp_path):
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


def test_links_are_followed_except_loops_and_broken_links_are_missing(tmp_path):
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


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    root, scandir = put(tmp_path, "a/1.jpg", "b/1.jpg"), os.scandir

    def denied(path: str) -> object:
        if Path(path).name == "b":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(InputError, match=r"cannot list .*/b/ \(Permission denied\): check it"):
        find_images(root)


def test_addresses_for_other_processes_are_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for address, expected in {
        "~/faces": f"{tmp_path}/home/faces",
        "faces": f"{tmp_path}/faces",
        "s3://bucket/~/faces": "s3://bucket/~/faces",
    }.items():
        assert images_address(address) == expected
    with pytest.raises(
        InputError, match="~nobody_here/faces names a home folder that does not exist"
    ):
        images_address("~nobody_here/faces")


def test_the_error_for_a_folder_without_images_names_its_files(tmp_path):
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
