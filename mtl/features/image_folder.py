"""What lies below a folder of images, on a local disk or a remote one."""

import os
import stat
from collections import Counter
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from mtl.dataset import storage
from mtl.errors import InputError, brief

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class FolderContents(NamedTuple):
    """Paths below the folder, in any order; hidden files and folders are left out.

    Attributes:
        images: Files with a suffix of ``SUFFIXES``, and links to nothing with one: those are
            missing, which reading them says.
        others: Everything else that is no folder.
        folders_without_images: Innermost folders that hold no image. A remote file system has none.
    """

    images: list[str]
    others: list[str]
    folders_without_images: list[str]

    def describe_left_out(self) -> str:
        """``left out 3 files that are no images (such as a/notes.txt)``; empty for none."""
        said = [
            f"{len(paths):,} {kind} (such as {printable(min(paths))})"
            for paths, kind in (
                (self.others, "files that are no images"),
                (self.folders_without_images, "folders without images"),
            )
            if paths
        ]
        return f"left out {' and '.join(said)}" if said else ""

    def describe_other_files(self) -> str:
        """What there is where there are no images: `` but 2 .npy files, such as a/1.npy: ...``."""
        if not self.others:
            return " and no other files: give the folder of the images"
        suffixes = Counter(PurePosixPath(file).suffix for file in self.others)
        (suffix, most), *_ = suffixes.most_common(1)
        kind = f"{suffix} files" if suffix else "files without a suffix"
        such = printable(min(self.others))
        return f" but {most:,} {kind}, such as {such}: give the folder of the images"


def list_files(filesystem: pafs.FileSystem, folder: str, shown: str) -> FolderContents:
    """All files below a folder that is there; InputError where it cannot be listed."""
    if isinstance(filesystem, pafs.LocalFileSystem):
        return _list_local(folder)
    try:
        under = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"cannot list {shown} ({brief(error)}): check it") from None
    start = len(folder.rstrip("/")) + 1
    files = [f.path[start:] for f in under if f.type != pafs.FileType.Directory]
    found = FolderContents([], [], [])
    for file in files:
        if "/." not in f"/{file}":
            (found.images if _is_named_as_image(file) else found.others).append(file)
    return found


def _list_local(root: str) -> FolderContents:
    """Links are followed, but for those to a folder that they lie in. A file costs no stat."""
    found = FolderContents([], [], [])
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))]
    while waiting:
        below, above = waiting.pop()
        inner, before = [], len(found.images)
        for entry in _entries(f"{root}/{below}"):
            kind = _kind(entry)
            if kind == stat.S_IFDIR:
                inner.append(entry)
            elif kind == stat.S_IFREG and _is_named_as_image(entry.name):
                found.images.append(below + entry.name)
            else:
                found.others.append(below + entry.name)
        if below and not inner and len(found.images) == before:
            found.folders_without_images.append(below.rstrip("/"))
        for entry in inner:
            real = os.path.realpath(entry) if entry.is_symlink() else f"{above[-1]}/{entry.name}"
            if not any(f"{folder}/".startswith(f"{real.rstrip('/')}/") for folder in above):
                waiting.append((f"{below}{entry.name}/", (*above, real)))
    return found


def _entries(folder: str) -> "list[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot list {printable(folder)} ({error.strerror}): check it") from None


def _kind(entry: "os.DirEntry[str]") -> int:
    """As stat tells kinds; a link is what it leads to, and a file where it leads nowhere."""
    try:
        if entry.is_file(follow_symlinks=False):
            return stat.S_IFREG
        if entry.is_dir(follow_symlinks=False):
            return stat.S_IFDIR
        return stat.S_IFMT(entry.stat().st_mode)
    except OSError:
        return stat.S_IFREG


def _is_named_as_image(file: str) -> bool:
    return file.lower().endswith(SUFFIXES)


def is_mounted(filesystem: pafs.FileSystem, folder: str, shown: str) -> bool:
    """Whether a folder is there; a local one must hold something, as a disk's does."""
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return bool(storage.info(filesystem, folder, shown).type != pafs.FileType.NotFound)
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def printable(path: str) -> str:
    """A path with what is not UTF-8 in it escaped."""
    return path.encode("utf-8", "backslashreplace").decode()
